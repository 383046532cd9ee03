"""``edgekit profile show | diff | plot | FILE`` and --check: what was measured, looked at; nothing is trained here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgekit.codec import replace_profile
from edgekit.pipeline import profiling
from edgekit.pipeline.profiling import CheckResult
from edgekit.profile.drift import Drift
from tests.cli.conftest import Invoke


@pytest.fixture
def held(tmp_path: Path) -> Path:
    pytest.importorskip("torch", reason="the profile of the tests is made from a network that can be trained")
    from tests.pipeline import runs

    path = tmp_path / "box.json"
    replace_profile(path, runs.profile())
    return path


def test_show_lists_the_slowest_units_first(held: Path, invoke: Invoke) -> None:
    units = invoke("profile", "show", str(held), "--json").envelope["data"]["units"]

    assert [unit["us"] for unit in units] == sorted((unit["us"] for unit in units), reverse=True)


def test_show_says_how_many_rows_it_left_out(held: Path, invoke: Invoke) -> None:
    assert "faster ones: --limit" in invoke("profile", "show", str(held), "--limit", "2").stdout


def test_diff_tells_the_unit_that_changed(held: Path, tmp_path: Path, invoke: Invoke) -> None:
    from tests.pipeline import runs

    whole = runs.profile()
    first, *others = whole.units
    slower = msgspec.structs.replace(first, framed=runs.timing(3 * first.framed.median_us))
    replace_profile(tmp_path / "new.json", runs.with_units(whole, (slower, *others)))

    found = invoke("profile", "diff", str(held), str(tmp_path / "new.json"), "--json").envelope["data"]["diff"]

    assert [change["is_beyond_noise"] for change in found["changes"]].count(True) == 1
    assert found["changes"][0]["is_beyond_noise"]


def test_plot_writes_a_page_beside_the_profile(held: Path, invoke: Invoke) -> None:
    assert invoke("profile", "plot", str(held)).exit_code == 0

    assert held.with_suffix(".html").read_text().lstrip().lower().startswith("<!doctype html")


@pytest.mark.parametrize(("verdict", "exit_code"), [("ok", 0), ("drifted", 1)])
def test_a_check_that_finds_drift_ends_with_1(
    verdict: str, exit_code: int, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    drift = Drift(
        change=0.2, low=0.1, high=0.3, yardstick_change=0.2, unit_count=20, block_count=9, is_drifted=verdict != "ok"
    )
    result = CheckResult(path="box.json", verdict=verdict, drift=drift)  # type: ignore[arg-type]
    monkeypatch.setattr(profiling, "check_profile", lambda *_, **__: result)

    done = invoke("profile", "--check", "--output", "box.json", "--json")

    assert (done.exit_code, done.envelope["data"]["checks"][0]["verdict"]) == (exit_code, verdict)


def test_a_network_needs_a_model_and_its_input(invoke: Invoke) -> None:
    done = invoke("profile", "--json")

    assert done.exit_code == 2 and "--model and --input are needed" in done.envelope["errors"][0]["message"]


def test_a_word_that_is_no_command_is_a_file(tmp_path: Path, invoke: Invoke) -> None:
    done = invoke("profile", str(tmp_path / "absent.onnx"), "--json")

    assert done.exit_code == 2 and "absent.onnx" in done.envelope["errors"][0]["message"]
