"""A target that is there and runs its models is found to be, over every transport; what is wrong is told in its row."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.devices import Device, adb, trust
from edgekit.devices.fake import FakeDevice, FakeMachine
from edgekit.devices.installation import with_python, write_installation
from edgekit.devices.local import FOLDER_VARIABLE
from edgekit.devices.opening import open_device
from edgekit.errors import DeviceError, TrustError
from edgekit.pipeline import target_check
from edgekit.pipeline.target_check import RuntimeCheck, TargetCheck, check_target
from edgekit.profile.stopwatch import LocalStopwatch
from edgekit.runtimes import FloatArray
from edgekit.types import Machine, Progress, RuntimeOptions, Target
from tests.devices.adbd import Adbd
from tests.devices.phone import plain_phone_at
from tests.devices.sshd import MISSING, PROGRAM, Sshd, free_port, running_sshd
from tests.devices.test_adb import own_adb

# Phones of several workers would share this machine's processes, and end each other's jobs of the same name.
pytestmark = pytest.mark.xdist_group("phone")

HERE = Target(name="here", description="", transport="local", runtimes={"onnx": RuntimeOptions()})
CALM = Machine(cpu="Fake", cores=4, architecture="aarch64", kernel="6.1", governor="performance")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own home and project."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "device"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Sshd]:
    if PROGRAM is None:
        pytest.skip(MISSING)
    with running_sshd(folder / "server") as running:
        (folder / ".ssh").mkdir()
        (folder / ".ssh/config").write_text(f"Host *\n  IdentityFile {running.client_key}\n  IdentitiesOnly yes\n")
        yield running


@pytest.fixture
def over_ssh(server: Sshd) -> Target:
    return msgspec.structs.replace(HERE, name="pi", transport="ssh", address=f"127.0.0.1:{server.port}")


@pytest.fixture
def over_adb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A phone whose shell is this machine's."""
    with ExitStack() as stack:
        for name, value in stack.enter_context(own_adb(folder)).items():
            monkeypatch.setenv(name, value)
        phone = stack.enter_context(plain_phone_at(folder / "phone", "its shell is this machine's"))
        monkeypatch.setattr(adb, "FOLDER", str(phone.folder / "edgekit"))
        adbd = stack.enter_context(Adbd(phone, keys="none needed"))
        yield msgspec.structs.replace(HERE, name="phone", transport="adb", address=adbd.address)


def install(target: Target) -> None:
    """This process's Python, which has the runtimes."""
    device: Device = open_device(target)
    write_installation(device, with_python(device, sys.executable))
    device.close()


def pin(server: Sshd) -> None:
    trust.accept("127.0.0.1", server.port, trust.HostKey(*server.public_key.split()))


def only_row(found: TargetCheck) -> RuntimeCheck:
    (row,) = found.runtimes
    return row


def assert_runs(found: TargetCheck) -> None:
    row = only_row(found)
    assert row.is_ok, row.problem
    assert row.version.startswith("onnxruntime ") and row.kernels and row.latency_us is not None
    assert found.machine.cores >= 1 and found.user_bits == 64


def test_this_machine_runs_its_models() -> None:
    assert_runs(check_target(HERE))


def test_every_runtime_of_a_target_has_a_row_in_its_order() -> None:
    pytest.importorskip("ai_edge_litert", reason="the second runtime is LiteRT: pip install 'edgekit[tflite]'")
    both = msgspec.structs.replace(HERE, runtimes={"tflite": RuntimeOptions(), "onnx": RuntimeOptions()})
    reports: list[Progress] = []

    found = check_target(both, reports.append)

    assert [(row.runtime, row.problem) for row in found.runtimes] == [("tflite", ""), ("onnx", "")]
    assert [report.done for report in reports] == [0, 1, 2]


def test_a_device_over_ssh_runs_its_models(over_ssh: Target, server: Sshd) -> None:
    pin(server)
    install(over_ssh)

    found = check_target(over_ssh)

    assert_runs(found)
    assert found.target == "pi"


def test_a_device_over_adb_runs_its_models(over_adb: Target) -> None:
    install(over_adb)

    found = check_target(over_adb)

    assert_runs(found)
    assert found.target == "phone"


def test_a_host_that_nobody_trusted_is_not_entered(over_ssh: Target, server: Sshd) -> None:
    with pytest.raises(TrustError) as raised:
        check_target(over_ssh)

    assert server.fingerprint in raised.value.message and "edgekit target trust pi" in str(raised.value.hint)


def test_a_device_that_is_not_there_is_an_error() -> None:
    nobody = msgspec.structs.replace(HERE, name="pi", transport="ssh", address=f"127.0.0.1:{free_port()}")

    with pytest.raises(DeviceError, match="pi"):
        check_target(nobody)


def test_a_runtime_that_is_not_installed_there_is_told_in_its_row(over_ssh: Target, server: Sshd) -> None:
    pin(server)
    device = open_device(over_ssh)
    write_installation(device, with_python(device, "/usr/bin/false"))
    device.close()

    row = only_row(check_target(over_ssh))

    assert not row.is_ok and "ended early with exit code 1" in row.problem
    assert row.hint == "see what is missing there: edgekit target check pi"


class _Stopwatch(LocalStopwatch):
    """This process's, with a machine of its own and results that can be wrong."""

    factor = 1.0
    told = CALM
    reasons: tuple[str, ...] = ()

    @property
    def tainted(self) -> tuple[str, ...]:
        return self.reasons

    def machine(self) -> Machine:
        return self.told

    def run(self, model: bytes, samples: FloatArray) -> FloatArray:
        return (super().run(model, samples) * self.factor).astype(np.float32)


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> type[_Stopwatch]:
    from edgekit.runtimes import get

    class Stopwatch(_Stopwatch):
        pass

    monkeypatch.setattr(target_check, "open_stopwatch", lambda _, name: Stopwatch(get(name)))
    monkeypatch.setattr(target_check, "open_device", lambda _: FakeDevice("shelf", FakeMachine()))
    return Stopwatch


@pytest.mark.parametrize("factor", [1.01, -1.0, float("nan"), 0.0])
def test_a_runtime_that_computes_something_else_is_told(stopwatch: type[_Stopwatch], factor: float) -> None:
    stopwatch.factor = factor

    row = only_row(check_target(HERE))

    assert row.problem.startswith("the runtime computes other values than here") and row.latency_us is None


def test_a_calm_machine_spoils_nothing(stopwatch: type[_Stopwatch]) -> None:
    assert check_target(HERE).spoils == ()


def test_what_would_spoil_timings_is_told(stopwatch: type[_Stopwatch]) -> None:
    stopwatch.told = msgspec.structs.replace(CALM, governor="ondemand", load_1min=4.0, temperature_celsius=90.0)
    stopwatch.reasons = ("the board reports throttling",)

    assert len(check_target(HERE).spoils) == 4


def test_a_32_bit_userland_is_told(stopwatch: type[_Stopwatch], monkeypatch: pytest.MonkeyPatch) -> None:
    facts = msgspec.structs.replace(FakeMachine().facts, user_bits=32)
    monkeypatch.setattr(FakeDevice, "facts", lambda _: facts)

    (reason,) = check_target(HERE).spoils

    assert "32-bit userland" in reason


def test_where_no_runtime_runs_the_machine_is_told_by_the_device(
    stopwatch: type[_Stopwatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise DeviceError("it is broken", "mend it")

    monkeypatch.setattr(target_check, "open_stopwatch", broken)

    found = check_target(HERE)

    assert found.machine.cpu == "Fake processor"
    assert (only_row(found).problem, only_row(found).hint) == ("it is broken", "mend it")
