"""What is installed on a device is found again, and what a device says of it is not believed beyond its bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.devices import Device, DeviceFacts
from edgekit.devices.fake import FakeDevice, FakeMachine
from edgekit.devices.installation import (
    INSTALLATION_FILE,
    Installation,
    find_installation,
    read_installation,
    with_python,
    worker_source,
    write_installation,
)
from edgekit.devices.opening import open_device
from edgekit.devices.worker import parse_job
from edgekit.errors import DeviceError, LinkLostError, UsageError
from edgekit.types import RuntimeOptions, Target

WHOLE = Installation(
    argv=("./worker",),
    files={"worker": "worker-1", "libonnxruntime.so": "libonnxruntime-1.so"},
    library="libonnxruntime.so",
    runtimes={"onnx": "onnxruntime 1.31.1"},
    environment={"ORT_DISABLE_TELEMETRY": "1"},
)
DAMAGED: dict[str, dict[str, Any]] = {
    "another schema": {"schema": 2},
    "an unknown key": {"shell": "sh"},
    "no program": {"argv": []},
    "an empty program": {"argv": [""]},
    "a thousand arguments": {"argv": ["x"] * 1000},
    "a path for a file": {"files": {"worker": "../../etc/passwd"}},
    "a path for a name": {"files": {"../worker": "worker"}},
    "a library elsewhere": {"library": "/tmp/evil.so"},
    "a task in the library": {"library": "x\nrun a b c"},
    "a trailing newline": {"library": "x.so\n"},
    "an unknown runtime": {"runtimes": {"torch": "2"}},
}


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice("shelf", FakeMachine())


class WithPython(FakeDevice):
    def facts(self) -> DeviceFacts:
        return msgspec.structs.replace(super().facts(), python="3.11.2")


def test_what_was_written_down_is_read_again(device: FakeDevice) -> None:
    write_installation(device, WHOLE)

    assert read_installation(device) == WHOLE == find_installation(device)


def test_where_nothing_is_written_down_nothing_is_found(device: FakeDevice) -> None:
    assert find_installation(device) is None


def test_without_python_and_installation_there_is_no_worker(device: FakeDevice) -> None:
    with pytest.raises(DeviceError, match="no worker on 'shelf', and no Python") as raised:
        read_installation(device)

    assert raised.value.hint == "install it: edgekit target setup shelf"


def test_the_devices_own_python_serves_where_nothing_was_installed() -> None:
    device = WithPython("shelf", FakeMachine())

    found = read_installation(device)

    assert found.argv == ("python3", "worker.py")
    assert device.fetch(found.files["worker.py"]) == worker_source()


def test_another_version_of_the_worker_is_another_file(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    first = with_python(device, "python3")
    monkeypatch.setattr("edgekit.devices.installation.worker_source", lambda: b"# another one")

    assert with_python(device, "python3").files != first.files


def test_the_worker_that_is_pushed_is_the_one_of_this_package() -> None:
    assert worker_source() == (Path(__file__).parents[2] / "edgekit/devices/worker.py").read_bytes()


def test_a_lost_link_is_not_taken_for_nothing_installed(device: FakeDevice) -> None:
    device.machine.faults = {0: "cut_before"}

    with pytest.raises(LinkLostError):
        read_installation(device)


@pytest.mark.parametrize("changes", DAMAGED.values(), ids=list(DAMAGED))
def test_what_cannot_be_installed_is_refused_as_damaged(device: FakeDevice, changes: dict[str, Any]) -> None:
    device.push(INSTALLATION_FILE, json.dumps({**msgspec.to_builtins(WHOLE), **changes}).encode())

    with pytest.raises(DeviceError, match=r"installation.json on 'shelf' is damaged") as raised:
        read_installation(device)

    assert raised.value.hint == "install it: edgekit target setup shelf"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"argv": ["\xff"]}', b"[" * 100_000])
def test_what_is_no_json_is_damaged(device: FakeDevice, content: bytes) -> None:
    device.push(INSTALLATION_FILE, content)

    with pytest.raises(DeviceError, match="is damaged"):
        find_installation(device)


def test_every_library_that_is_believed_can_stand_in_a_job_file() -> None:
    parse_job(f"edgekit-job 1\nruntime onnx\nlibrary {WHOLE.library}\nstate\n")


def target(transport: Any, address: str) -> Target:
    return Target(name="box", description="", transport=transport, address=address, runtimes={"onnx": RuntimeOptions()})


@pytest.mark.parametrize(("transport", "address"), [("local", ""), ("ssh", "pi@127.0.0.1:1"), ("adb", "127.0.0.1:1")])
def test_opening_a_device_sends_nothing(transport: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it was reached"))
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *_, **__: pytest.fail("a program was started"))

    device: Device = open_device(target(transport, address))
    device.close()

    assert device.name == "box"


@pytest.mark.parametrize(("transport", "address"), [("ssh", "host name"), ("ssh", "-oProxyCommand=x"), ("adb", "-s x")])
def test_an_address_that_is_none_is_refused_when_it_is_opened(transport: str, address: str) -> None:
    with pytest.raises(UsageError):
        open_device(target(transport, address))


def never(argv: Sequence[str], files: dict[str, bytes], environment: Mapping[str, str]) -> Iterator[bytes]:
    raise AssertionError("no program is needed to read an installation")
    yield b""


def test_reading_an_installation_runs_nothing_on_the_device() -> None:
    device = FakeDevice("shelf", FakeMachine(never))
    write_installation(device, WHOLE)

    assert read_installation(device) == WHOLE
