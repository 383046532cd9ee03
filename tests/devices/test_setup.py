"""Setting up a device without internet: what fits its Python is fetched here, installed once, and written down last."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from edgekit.devices import setup
from edgekit.devices.fake import FakeDevice, FakeMachine, ProgramError
from edgekit.devices.installation import find_installation, worker_source
from edgekit.devices.setup import DevicePython, ask_python, fetch_wheel, set_up
from edgekit.errors import DeviceError, LinkLostError
from edgekit.types import Progress, RuntimeName

PI = DevicePython(version=(3, 11), libc=("glibc", "2.36"), machine="aarch64")
RUNTIMES: tuple[RuntimeName, ...] = ("onnx", "tflite")


class Shelf:
    """A device's programs: a Python that makes environments, and files outside of edgekit's folder."""

    def __init__(self, python: DevicePython | bytes | None = PI) -> None:
        self.python = python
        self.commands: list[tuple[str, ...]] = []
        self.finished: set[str] = set()
        self.fails_at = ""

    def __call__(self, argv: Sequence[str], files: dict[str, bytes], environment: Mapping[str, str]) -> Iterator[bytes]:
        self.commands.append(tuple(argv))
        name = PurePosixPath(argv[0]).name
        if self.python is None and name == "python3":
            raise ProgramError(127, "python3: not found")
        if self.fails_at and self.fails_at in argv:
            raise ProgramError(1, "warning\nno space left")
        if argv[:2] == ("python3", "-c"):
            yield self.python if isinstance(self.python, bytes) else msgspec.json.encode(self.python)
        elif name == "test" and argv[2] not in self.finished:
            raise ProgramError(1)
        elif name == "touch":
            self.finished.add(argv[1])
        yield b""

    def count(self, word: str) -> int:
        return sum(word in command for command in self.commands)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def device(shelf: Shelf) -> FakeDevice:
    return FakeDevice("shelf", FakeMachine(shelf))


@pytest.fixture(autouse=True)
def index(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of a package index that has everything."""
    asked: list[str] = []

    def download(requirement: str, python: DevicePython, folder: Path) -> str:
        asked.append(requirement)
        name, _, version = requirement.partition("==")
        (folder / f"{name.replace('-', '_')}-{version or '9.9'}-any.whl").write_bytes(requirement.encode())
        return ""

    monkeypatch.setattr(setup, "_download", download)
    monkeypatch.setattr(setup, "_own_version", {"numpy": "2.0", "onnxruntime": "1.31"}.get)
    return asked


def test_an_installation_starts_the_worker_in_an_environment_of_its_own(device: FakeDevice, tmp_path: Path) -> None:
    installed = set_up(device, RUNTIMES, wheels_folder=tmp_path)

    interpreter, worker = installed.argv
    assert interpreter.startswith("/data/edgekit/venv-") and interpreter.endswith("/bin/python3")
    assert worker == "worker.py" and device.fetch(installed.files["worker.py"]) == worker_source()
    assert installed.environment == {"ORT_DISABLE_TELEMETRY": "1"}


def test_later_commands_find_what_was_installed(device: FakeDevice, tmp_path: Path) -> None:
    assert find_installation(device) is None

    installed = set_up(device, RUNTIMES, wheels_folder=tmp_path)

    assert find_installation(device) == installed


def test_the_versions_are_those_of_this_machine_and_else_the_newest(
    device: FakeDevice, tmp_path: Path, index: list[str]
) -> None:
    installed = set_up(device, RUNTIMES, wheels_folder=tmp_path)

    assert index == ["numpy==2.0", "onnxruntime==1.31", "ai-edge-litert"]
    assert installed.runtimes == {"onnx": "onnxruntime-1.31-any.whl", "tflite": "ai_edge_litert-9.9-any.whl"}


def test_setting_up_again_changes_nothing(device: FakeDevice, shelf: Shelf, tmp_path: Path) -> None:
    first = set_up(device, ("onnx",), wheels_folder=tmp_path)

    second = set_up(device, ("onnx",), wheels_folder=tmp_path)

    assert first == second and shelf.count("venv") == 1


def test_wheels_do_not_stay_on_the_device(device: FakeDevice, shelf: Shelf, tmp_path: Path) -> None:
    set_up(device, ("onnx",), wheels_folder=tmp_path)

    removed = next(command for command in shelf.commands if command[0] == "rm")
    assert {PurePosixPath(path).name for path in removed[3:]} == {"numpy-2.0-any.whl", "onnxruntime-1.31-any.whl"}


@pytest.mark.parametrize("step", ["venv", "touch"])
def test_what_failed_half_way_is_not_written_down_and_can_be_done_again(
    step: str, device: FakeDevice, shelf: Shelf, tmp_path: Path
) -> None:
    shelf.fails_at = step
    with pytest.raises(DeviceError, match="no space left"):
        set_up(device, ("onnx",), wheels_folder=tmp_path)
    assert find_installation(device) is None
    shelf.fails_at = ""

    assert set_up(device, ("onnx",), wheels_folder=tmp_path) == find_installation(device)


def test_a_link_lost_in_any_exchange_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    for number in range(40):
        device = FakeDevice("shelf", FakeMachine(Shelf(), faults={number: "cut_after"}))
        try:
            set_up(device, ("onnx",), wheels_folder=tmp_path)
        except LinkLostError:
            set_up(device, ("onnx",), wheels_folder=tmp_path)
        else:
            break

        found = find_installation(device)
        assert found is not None and found.argv[0].startswith("/data/edgekit/venv-")
    assert 10 <= number < 40


def test_progress_goes_up_to_the_end_of_each_stage(device: FakeDevice, tmp_path: Path) -> None:
    reports: list[Progress] = []

    set_up(device, ("onnx",), wheels_folder=tmp_path, progress=reports.append)

    stages = dict.fromkeys(report.stage for report in reports)
    assert list(stages)[:2] == ["fetch", "push"]
    for stage in stages:
        last = [report for report in reports if report.stage == stage][-1]
        assert last.done == last.total


def test_the_device_is_asked_for_its_python(device: FakeDevice) -> None:
    assert ask_python(device) == PI


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (None, "'shelf' has no python3 that runs"),
        (b"Segmentation fault", "answered b'Segmentation fault'"),
        (b"\xff", "answered"),
        (json.dumps({"version": [3, 11], "libc": ["glibc"], "machine": "x"}).encode(), "answered"),
        (DevicePython(version=(3, 8), libc=("glibc", "2.31"), machine="aarch64"), "is 3.8"),
        (DevicePython(version=(2, 7), libc=("glibc", "2.31"), machine="aarch64"), "is 2.7"),
    ],
)
def test_a_device_whose_python_does_not_do_is_told(python: DevicePython | bytes | None, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        ask_python(FakeDevice("shelf", FakeMachine(Shelf(python))))


def test_wheels_for_an_older_c_library_run_too() -> None:
    assert PI.platforms[0] == "manylinux_2_36_aarch64"
    assert PI.platforms[-2:] == ("manylinux_2_17_aarch64", "manylinux2014_aarch64")


@pytest.mark.parametrize("libc", [("", ""), ("musl", "1.2"), ("glibc", "2"), ("glibc", "2.x"), ("libc", "2.36")])
def test_for_other_c_libraries_there_are_no_wheels(libc: tuple[str, str], tmp_path: Path) -> None:
    python = msgspec.structs.replace(PI, libc=libc)

    with pytest.raises(DeviceError, match="wheels are for glibc"):
        fetch_wheel("numpy", python, tmp_path, "shelf")


def test_a_package_without_a_wheel_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_download", lambda *_: "No matching distribution found")

    with pytest.raises(DeviceError, match=r"no wheel of ai-edge-litert for Python 3.11 on aarch64: No matching"):
        fetch_wheel("ai-edge-litert", PI, tmp_path, "shelf")


def test_a_wheel_that_was_fetched_is_not_fetched_again(tmp_path: Path, index: list[str]) -> None:
    first = fetch_wheel("numpy", PI, tmp_path, "shelf")

    assert fetch_wheel("numpy", PI, tmp_path, "shelf") == first and index == ["numpy==2.0"]


def test_devices_with_other_pythons_do_not_share_wheels(tmp_path: Path) -> None:
    for python in (PI, msgspec.structs.replace(PI, version=(3, 12)), msgspec.structs.replace(PI, machine="x86_64")):
        set_up(FakeDevice("shelf", FakeMachine(Shelf(python))), ("onnx",), wheels_folder=tmp_path)

    assert len(list(tmp_path.iterdir())) == 3
