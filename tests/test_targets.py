"""Targets are found by name or path, a user's before edgekit's, and a broken file is named with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import targets
from edgekit.errors import BadInputError, UsageError

_VALID = """
name = "{name}"
description = "a box"
transport = "local"
[runtimes.onnx]
threads = 2
"""


def _write(folder: Path, name: str, text: str = _VALID) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text.replace("{name}", name))
    return path


def test_the_shipped_cpu_target_runs_both_runtimes_with_one_thread() -> None:
    cpu = targets.find("cpu")

    assert {name: options.threads for name, options in cpu.runtimes.items()} == {"onnx": 1, "tflite": 1}


def test_every_shipped_target_is_valid_and_named_like_its_file(tmp_path: Path) -> None:
    found = targets.list_all(tmp_path)

    assert found and all(entry.target is not None and entry.target.name == entry.name for entry in found)


def test_a_users_target_is_found_by_name(tmp_path: Path) -> None:
    _write(tmp_path, "box")

    assert targets.find("box", tmp_path).runtimes["onnx"].threads == 2


def test_a_users_target_hides_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    path = _write(tmp_path, "cpu")

    (entry,) = [entry for entry in targets.list_all(tmp_path) if entry.name == "cpu"]

    assert (entry.origin, entry.path) == ("user", path)


def test_a_target_is_found_by_path(tmp_path: Path) -> None:
    assert targets.find(str(_write(tmp_path, "box"))).name == "box"


def test_a_wrong_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path, "raspberry")

    with pytest.raises(UsageError, match="'rasberry'") as caught:
        targets.find("rasberry", tmp_path)

    assert caught.value.hint is not None and "raspberry" in caught.value.hint


def test_a_missing_path_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.toml"):
        targets.find(str(tmp_path / "gone.toml"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_VALID + 'colour = "red"', "colour"),
        (_VALID.replace("threads = 2", "threads = 0"), "threads"),
        (_VALID.replace("threads = 2", "formats = []"), "formats"),
        (_VALID.replace("threads = 2", 'formats = ["int3"]'), "formats"),
        (_VALID.replace('"local"', '"ssh"'), "address"),
        (_VALID.replace('"{name}"', '"../evil"'), "name"),
        (_VALID.replace("[runtimes.onnx]", "[runtimes.torch]"), "runtimes"),
        ("name = ", "TOML"),
    ],
)
def test_a_broken_target_is_refused_with_its_file_and_key(tmp_path: Path, text: str, reason: str) -> None:
    path = _write(tmp_path, "box", text)

    with pytest.raises(BadInputError, match=rf"box\.toml: .*{reason}"):
        targets.find(str(path))


def test_a_broken_target_does_not_hide_the_others_in_the_list(tmp_path: Path) -> None:
    _write(tmp_path, "broken", "name = ")
    _write(tmp_path, "box")

    problems = {entry.name: bool(entry.problem) for entry in targets.list_all(tmp_path)}

    assert (problems["broken"], problems["box"]) == (True, False)
