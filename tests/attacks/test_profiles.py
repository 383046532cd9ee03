"""A poisoned profile is refused by its place in the file, with exit code 3, before any of its times is used."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit import codec
from edgekit.codec import read_profile, replace_profile
from edgekit.errors import BadInputError
from edgekit.profile import PriceTable
from edgekit.types import Correction, Profile
from tests.profile.networks import add, conv, correction_of, dense, profile, residual, timing

Document = dict[str, Any]
Place = tuple[str | int, ...]

NOT_NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e308",
    "1e999",
    "-1",
    "-0.5",
    "1" + "0" * 400,
    '"3"',
    "true",
    "null",
)
TIME = ("units", 1, "framed", "median_us")


def clean_profile() -> Profile:
    correction = Correction(overhead_us=1.0, scale=1.1, network_count=12, median_error=0.02, max_error=0.05)
    whole = profile({conv(8, 8, 16): 3.0, dense(16, 10): 2.0, add(8, 8): 1.0}, [correction_of(residual(), correction)])
    cold = msgspec.structs.replace(whole.units[0], cold=timing(30.0))
    return msgspec.structs.replace(whole, units=(cold, *whole.units[1:]), tainted=("load was 4.0 on 2 cores",))


def document() -> Document:
    loaded: Document = json.loads(msgspec.json.encode(clean_profile()))
    return loaded


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, (*place, key))
    else:
        yield place


def poisoned(place: Place, text: str) -> bytes:
    """The file in which the JSON ``text`` stands at ``place``."""
    changed = document()
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "@poison@"
    return json.dumps(changed).replace('"@poison@"', text).encode()


def refusal(path: Path, data: bytes) -> BadInputError:
    path.write_bytes(data)
    with pytest.raises(BadInputError) as caught:
        read_profile(path)
    return caught.value


def test_the_clean_profile_is_read(tmp_path: Path) -> None:
    replace_profile(tmp_path / "p.json", clean_profile())

    assert read_profile(tmp_path / "p.json") == clean_profile()


@pytest.mark.parametrize("text", [*NOT_NUMBERS, "0", "1e-320"])
@pytest.mark.parametrize("kind", ["framed", "frame", "cold"])
def test_a_time_that_no_clock_gives_is_refused(tmp_path: Path, kind: str, text: str) -> None:
    error = refusal(tmp_path / "p.json", poisoned(("units", 0, kind, "median_us"), text))

    assert error.exit_code == 3 and "p.json" in error.message


@pytest.mark.parametrize("text", ["1e308", "-1", '"3"', "true", "null"])
def test_the_refusal_names_the_place(tmp_path: Path, text: str) -> None:
    error = refusal(tmp_path / "p.json", poisoned(TIME, text))

    assert "$.units[1].framed.median_us" in error.message


@pytest.mark.parametrize("field", ["overhead_us", "scale", "median_error", "max_error", "network_count"])
@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_a_correction_out_of_bounds_is_refused(tmp_path: Path, field: str, text: str) -> None:
    error = refusal(tmp_path / "p.json", poisoned(("corrections", 0, "correction", field), text))

    assert error.exit_code == 3


@pytest.mark.parametrize("text", ["0", "1e-320", "1e-9"])
def test_a_correction_that_would_make_every_network_free_is_refused(tmp_path: Path, text: str) -> None:
    error = refusal(tmp_path / "p.json", poisoned(("corrections", 0, "correction", "scale"), text))

    assert "$.corrections[0].correction.scale" in error.message


CHANGES: dict[str, tuple[Callable[[Document], Any], str]] = {
    "unit twice": (lambda d: d["units"].append(copy.deepcopy(d["units"][0])), "$.units[3]"),
    "unit twice, other times": (
        lambda d: d["units"].append(d["units"][0] | {"frame": d["units"][1]["frame"]}),
        "$.units[3]",
    ),
    "output shape": (lambda d: d["units"][0]["unit"].update(output_shape=[16, 9, 9]), "$.units[0].unit"),
    "rank": (lambda d: d["units"][0]["unit"].update(input_shape=[8]), "$.units[0].unit"),
    "no dimensions": (lambda d: d["units"][1]["unit"].update(input_shape=[], output_shape=[]), "$.units[1].unit"),
    "terabytes": (
        lambda d: d["units"][1]["unit"].update(input_shape=[2**31], output_shape=[2**31]),
        "$.units[1].unit",
    ),
    "groups": (lambda d: d["units"][0]["unit"].update(groups=3), "$.units[0].unit"),
    "dimension of 0": (lambda d: d["units"][0]["unit"].update(input_shape=[0, 8, 8]), "$.units[0].unit.input_shape"),
    "bits": (lambda d: d["units"][0]["unit"].update(weight_bits=0), "$.units[0].unit.weight_bits"),
    "kind": (lambda d: d["units"][0]["unit"].update(kind="system"), "$.units[0].unit.kind"),
    "percentiles": (lambda d: d["units"][2]["frame"].update(p10_us=6.0), "$.units[2].frame"),
    "minimum": (lambda d: d["units"][2]["framed"].update(min_us=1e6), "$.units[2].framed"),
    "no runs": (lambda d: d["units"][0]["framed"].update(count=0), "$.units[0].framed.count"),
    "correction twice": (lambda d: d["corrections"].append(d["corrections"][0]), "$.corrections[1]"),
    "corrections of before": (lambda d: d.update(corrections={"fp32": {}}), "$.corrections"),
    "unknown key": (lambda d: d["units"][0].update(command="rm"), "$.units[0]"),
    "schema": (lambda d: d.update(schema=2), "$.schema"),
    "threads": (lambda d: d.update(threads=0), "$.threads"),
    "runtime": (lambda d: d.update(runtime="tensorrt"), "$.runtime"),
    "units": (lambda d: d.update(units={"0": 1}), "$.units"),
    "temperature": (lambda d: d["machine"].update(temperature_celsius=1e9), "$.machine.temperature_celsius"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_cannot_have_been_measured_is_refused_by_its_place(tmp_path: Path, name: str) -> None:
    change, place = CHANGES[name]
    changed = document()
    change(changed)

    error = refusal(tmp_path / "p.json", json.dumps(changed).encode())

    assert error.exit_code == 3 and place in error.message


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(list(leaves(document()))), text=st.sampled_from([*NOT_NUMBERS, "[]", "{}", '""']))
def test_whatever_stands_at_any_place_is_refused_or_prices_finitely(tmp_path: Path, place: Place, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(poisoned(place, text))

    try:
        found = read_profile(path)
    except BadInputError:
        return

    prices = [PriceTable(found).unit_us(timing.unit)[0] for timing in found.units]
    assert all(math.isfinite(price) and price >= 0 for price in (*prices, found.overhead_us))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    replace_profile(tmp_path / "whole.json", clean_profile())
    whole = (tmp_path / "whole.json").read_bytes().rstrip()

    error = refusal(tmp_path / "p.json", whole[: int(share * len(whole))])

    assert error.exit_code == 3 and "no valid JSON" in error.message


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000,
        b'{"machine":' * 200_000,
        b'{"schema":1,"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"units":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
    ids=["lists", "objects", "in an unknown key", "in the units"],
)
def test_deep_nesting_is_refused_and_crashes_nothing(tmp_path: Path, data: bytes) -> None:
    assert refusal(tmp_path / "p.json", data).exit_code == 3


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"null", b"[]", b'"p"', b"{}{}"], ids=repr
)
def test_what_is_no_profile_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refusal(tmp_path / "p.json", data).exit_code == 3


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "FILE_LIMIT_BYTES", 10_000)

    error = refusal(tmp_path / "p.json", b" " * 10_001)

    assert "larger than the 10000 bytes" in error.message


def test_a_pipe_in_the_place_of_a_profile_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.json")

    with pytest.raises(BadInputError, match="regular file"):
        read_profile(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("text", "place"),
    [("1e308", "$.units[1].framed.median_us"), ("NaN", "is no valid JSON"), ("-1", "$.units[1].framed.median_us")],
)
def test_the_command_line_ends_with_exit_code_3_and_leaves_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, place: str
) -> None:
    pytest.importorskip("torch", reason="building a network needs the extra [train]")
    from edgekit.cli.main import main

    path = tmp_path / "p.json"
    path.write_bytes(poisoned(TIME, text))
    before = path.read_bytes()

    exit_code = main(
        ("profile", "--model", "mlp-16", "--input", "1x4x4", "--output", str(path), "--force", "--json"),
    )

    (error,) = json.loads(capfd.readouterr().out)["errors"]
    assert (exit_code, error["code"], path.read_bytes()) == (3, "bad_input", before)
    assert place in error["message"]


def test_the_profile_of_another_device_ends_with_exit_code_3(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="building a network needs the extra [train]")
    from edgekit.cli.main import main

    path = tmp_path / "p.json"
    replace_profile(path, clean_profile())

    exit_code = main(("profile", "--model", "mlp-16", "--input", "1x4x4", "--output", str(path), "--force", "--json"))

    (error,) = json.loads(capfd.readouterr().out)["errors"]
    assert (exit_code, read_profile(path)) == (3, clean_profile())
    assert "must not be mixed" in error["message"]
