"""The scripts in each shell they are meant for, on devices that lack a program, and on a device that misbehaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgekit.devices import Completed, Device, Job, Link
from edgekit.devices.local import FOLDER_VARIABLE, LocalLink, open_local
from edgekit.devices.posix import ERROR_BYTES, PosixDevice
from edgekit.errors import DeviceError, LinkLostError, UsageError
from tests.devices.conformance import (
    ALL_BYTES,
    KEEP_RUNNING,
    SAY,
    SHOW_INPUT,
    Connect,
    DeviceConformance,
    finish,
    read_numbers,
    shell_job,
    wait_until,
)

PROGRAMS = (
    "cat chmod cp env getconf grep head ln ls mkdir mv nohup nproc od printf rm setsid sha256sum sleep tail tar touch"
    " tr uname wc"
)


class FolderLink(LocalLink):
    """Commands find only the programs in one folder, and one of them may be missing."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs

    def execute(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        # As a link that knows nothing but the device's shell: that looks for the program.
        environment = ("/usr/bin/env", "-i", f"PATH={self._programs}", f"HOME={self._programs.parent}")
        return super().execute((*environment, *argv), stdin, deadline_seconds)


def programs_of(folder: Path, shell: str, box: str | None, leave_out: Sequence[str] = ()) -> Path:
    """A folder with ``shell`` as sh and the usual programs: all of ``box`` if that is one, else this machine's."""
    folder.mkdir()
    for name in ("sh", shell, *([box] if box else [])):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed here")
    (folder / "sh").symlink_to(str(shutil.which(shell)))
    offered = box_programs(box) if box else PROGRAMS.split()
    for name in PROGRAMS.split():
        target = shutil.which(box or name)
        if name in offered and name not in leave_out and target:
            (folder / name).symlink_to(target)
    return folder


def box_programs(box: str) -> list[str]:
    command = [box, "--list"] if box == "busybox" else [box]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


class TestBash(DeviceConformance):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        programs = programs_of(tmp_path / "bin", "bash", None)
        return lambda: PosixDevice("bash", FolderLink(programs), "~/a folder's place")


class TestBusybox(DeviceConformance):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        programs = programs_of(tmp_path / "bin", "busybox", "busybox")
        return lambda: PosixDevice("busybox", FolderLink(programs), str(tmp_path / "device"))


class TestMkshAndToybox(DeviceConformance):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        programs = programs_of(tmp_path / "bin", "mksh", "toybox")
        return lambda: PosixDevice("phone", FolderLink(programs), str(tmp_path / "device"))


class TestWithoutSetsidAndLinks(DeviceConformance):
    """As a device that has no setsid, and a file system that refuses hard links."""

    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        programs = programs_of(tmp_path / "bin", "dash", None, leave_out=("setsid", "ln"))
        (programs / "ln").write_text('#!/bin/sh\necho "ln: Permission denied" >&2\nexit 1\n')
        (programs / "ln").chmod(0o755)
        return lambda: PosixDevice("bare", FolderLink(programs), str(tmp_path / "device"))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = open_local("here", tmp_path / "device")
    yield device
    for job_name in device.jobs():
        device.cancel(job_name)


def test_a_device_without_sha256sum_is_told(tmp_path: Path) -> None:
    programs = programs_of(tmp_path / "bin", "dash", None, leave_out=("sha256sum",))

    with pytest.raises(DeviceError, match="sha256sum"):
        PosixDevice("bare", FolderLink(programs), str(tmp_path / "device")).push("file", b"content")


@pytest.mark.parametrize("folder", ["", "relative", "~other/x", "/a\nb", "-rf"])
def test_a_folder_that_is_not_absolute_is_refused(folder: str) -> None:
    with pytest.raises(UsageError):
        PosixDevice("here", LocalLink(), folder)


def test_the_folder_of_this_machine_can_be_set_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "outside"))

    assert Path(open_local("here").facts().folder) == tmp_path / "outside"


def test_the_folder_is_below_the_home_of_the_user_when_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Path(open_local("here").facts().folder) == tmp_path / ".cache/edgekit/device"


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(DeviceError, match="file/below"):
        open_local("here", tmp_path / "file/below").jobs()


def test_others_cannot_read_what_is_on_the_device(tmp_path: Path, device: Device) -> None:
    device.push("file", b"content")

    assert (tmp_path / "device").stat().st_mode & 0o077 == 0


def test_a_pushed_program_can_be_run(device: Device) -> None:
    device.push("program", b"#!/bin/sh\necho it runs\n")
    device.start("job", Job(("./program",), {"program": "program"}, {}))

    assert finish(device, "job")[1] == b"it runs\n"


def test_a_push_that_is_repeated_does_not_write_the_file_again(tmp_path: Path, device: Device) -> None:
    device.push("file", b"content")
    before = (tmp_path / "device/files/file").stat()

    device.push("file", b"content")

    assert (tmp_path / "device/files/file").stat() == before


def test_a_file_that_was_changed_on_the_device_is_pushed_again(tmp_path: Path, device: Device) -> None:
    device.push("file", b"content")
    (tmp_path / "device/files/file").chmod(0o600)
    (tmp_path / "device/files/file").write_bytes(b"CONTENT")

    device.push("file", b"content")

    assert device.fetch("file") == b"content"


def test_nothing_half_is_left_of_pushes_that_succeeded(tmp_path: Path, device: Device) -> None:
    device.push("file", ALL_BYTES * 2**16)

    assert list((tmp_path / "device/partial").iterdir()) == []


class AlteringLink(LocalLink):
    """Flips a bit of whatever is sent."""

    def execute(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        return super().execute(argv, bytes(byte ^ 1 for byte in stdin), deadline_seconds)


def test_a_file_that_arrives_damaged_is_refused_and_not_kept(tmp_path: Path, device: Device) -> None:
    with pytest.raises(DeviceError, match="damaged"):
        PosixDevice("here", AlteringLink(), str(tmp_path / "device")).push("file", b"content")

    with pytest.raises(DeviceError, match="no file"):
        device.fetch("file")
    assert [path for path in (tmp_path / "device/partial").rglob("*") if path.is_file()] == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not mount_small_disk(tmp_path):
        pytest.skip("a small disk can only be mounted by root")
    try:
        device = open_local("here", tmp_path / "device")
        with pytest.raises(DeviceError, match="No space left"):
            device.push("file", ALL_BYTES * 2**16)

        device.push("file", b"small")

        assert device.fetch("file") == b"small"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def mount_small_disk(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "edgekit-test", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_many_pushes_of_the_same_file_at_once_leave_it_whole(tmp_path: Path) -> None:
    content = ALL_BYTES * 2**15
    failures: list[Exception] = []

    def push() -> None:
        try:
            open_local("here", tmp_path / "device").push("file", content)
        except DeviceError as error:
            failures.append(error)

    run_at_once([push] * 4)

    assert failures == []
    assert open_local("here", tmp_path / "device").fetch("file") == content


def test_many_starts_of_the_same_job_at_once_start_it_once(tmp_path: Path, device: Device) -> None:
    job = shell_job('echo started >>"$1"; sleep 0.2', str(tmp_path / "starts"))

    run_at_once([lambda: open_local("here", tmp_path / "device").start("job", job)] * 4)

    finish(device, "job")
    assert (tmp_path / "starts").read_text() == "started\n"


def run_at_once(actions: Sequence[object]) -> None:
    threads = [threading.Thread(target=action) for action in actions if callable(action)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_job_is_lost_when_the_device_was_started_anew(tmp_path: Path, device: Device) -> None:
    device.start("job", shell_job(KEEP_RUNNING))
    pid_file = tmp_path / "device/jobs/job/pid"
    recorded = pid_file.read_text()
    pid_file.write_text(" ".join([*recorded.split()[:2], "another-boot"]) + "\n")

    state = device.poll("job").state

    pid_file.write_text(recorded)
    assert state == "lost"


def test_a_job_that_ended_before_the_device_was_started_anew_has_ended(tmp_path: Path, device: Device) -> None:
    device.start("job", shell_job(SAY))
    finish(device, "job")
    (tmp_path / "device/jobs/job/pid").write_text("1 1 another-boot\n")

    assert device.poll("job").exit_code == 3


def test_a_job_whose_shell_was_killed_is_lost_with_its_output(tmp_path: Path, device: Device) -> None:
    device.start("job", shell_job(KEEP_RUNNING))
    (process,) = read_numbers(device, "job")
    runner = int((tmp_path / "device/jobs/job/pid").read_text().split()[0])
    os.kill(runner, 9)

    status, output = finish(device, "job")

    assert (status.state, output) == ("lost", f"{process}\n".encode())


def test_what_a_lost_job_left_running_ends_when_it_is_cancelled(tmp_path: Path, device: Device) -> None:
    device.start("job", shell_job(KEEP_RUNNING))
    (process,) = read_numbers(device, "job")
    os.kill(int((tmp_path / "device/jobs/job/pid").read_text().split()[0]), 9)

    device.cancel("job")

    assert not DeviceConformance().alive(process)


def test_an_innocent_process_with_the_number_of_a_job_is_neither_taken_for_it_nor_killed(
    tmp_path: Path, device: Device
) -> None:
    device.start("job", shell_job(SAY))
    finish(device, "job")
    innocent = subprocess.Popen(["sleep", "60"], start_new_session=True)
    folder = tmp_path / "device/jobs/job"
    _, start, boot = (folder / "pid").read_text().split()
    (folder / "pid").write_text(f"{innocent.pid} {start} {boot}\n")
    (folder / "exit").unlink()

    state = device.poll("job").state
    device.cancel("job")

    assert (state, innocent.poll()) == ("lost", None)
    innocent.kill()
    innocent.wait()


def test_a_job_that_leaves_its_session_or_its_environment_ends_when_it_is_cancelled(device: Device) -> None:
    script = "setsid sleep 60 & echo $!; env -i sleep 60 & echo $!; wait"
    device.start("job", shell_job(script))
    assert wait_until(lambda: device.poll("job").output.count(b"\n") == 2)
    processes = [int(word) for word in device.poll("job").output.split()]

    device.cancel("job")

    assert not any(DeviceConformance().alive(process) for process in processes)


def test_a_program_is_given_time_to_end_by_itself(tmp_path: Path, device: Device) -> None:
    script = 'trap "echo tidied >$1; exit" TERM; echo ready; while :; do sleep 0.05; done'
    device.start("job", shell_job(script, str(tmp_path / "tidied")))
    assert wait_until(lambda: device.poll("job").output == b"ready\n")

    device.cancel("job")

    assert (tmp_path / "tidied").read_text() == "tidied\n"


def test_a_job_that_is_ended_by_a_signal_has_the_exit_code_of_one(device: Device) -> None:
    device.start("job", shell_job("kill -KILL $$"))

    status, _ = finish(device, "job")

    assert (status.state, status.exit_code) == ("ended", 137)


def test_only_the_end_of_a_long_stderr_is_told(device: Device) -> None:
    device.start("job", shell_job("head -c 100000 /dev/zero >&2; echo the end >&2"))

    status, _ = finish(device, "job")

    assert len(status.error) == ERROR_BYTES
    assert status.error.endswith("\0the end\n")


def test_a_job_is_not_disturbed_by_changes_of_the_pushed_file(device: Device) -> None:
    device.push("stored", b"first")
    device.start("job", shell_job(f"sleep 0.3; {SHOW_INPUT}", files={"input": "stored"}))
    device.push("stored", b"second")

    assert finish(device, "job")[1] == b"first"


def test_a_job_of_many_files_can_be_started(device: Device) -> None:
    device.push("stored", b"content")
    device.start("job", shell_job("ls | wc -l", files={f"{'long-name' * 10}-{i}": "stored" for i in range(500)}))

    assert finish(device, "job")[1].strip() == b"500"


class AnsweringLink(Link):
    """A device that says something else than it should."""

    def __init__(self, completed: Completed) -> None:
        self.completed = completed

    def execute(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        return self.completed

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense", b"\xff\xfe\n\n", b"9" * 100, b"ended 1 x y\n", b"running\n", b"9\n"]
)
def test_an_answer_that_makes_no_sense_is_a_device_error(answer: bytes) -> None:
    device = PosixDevice("odd", AnsweringLink(Completed(0, answer, b"")))

    for use in (device.facts, lambda: device.poll("job"), lambda: device.fetch("file")):
        with pytest.raises(DeviceError, match="odd"):
            use()


def test_a_device_that_is_no_posix_system_is_told_with_its_answer() -> None:
    device = PosixDevice("odd", AnsweringLink(Completed(127, b"", b"sh: unknown command\n")))

    with pytest.raises(DeviceError, match="sh: unknown command"):
        device.jobs()


def test_a_command_that_is_late_is_ended_with_its_children(tmp_path: Path) -> None:
    script = 'sleep 60 & echo $! >"$1"; sleep 60'

    with pytest.raises(LinkLostError):
        LocalLink().execute(("sh", "-c", script, "sh", str(tmp_path / "child")), b"", 0.5)

    child = int((tmp_path / "child").read_text())
    assert wait_until(lambda: not DeviceConformance().alive(child), 5)


def test_opening_a_device_and_asking_it_something_is_quick(tmp_path: Path) -> None:
    def elapsed_seconds() -> float:
        start = time.perf_counter()
        open_local("here", tmp_path / "device").execute(("true",))
        return time.perf_counter() - start

    assert min(elapsed_seconds() for _ in range(5)) < 0.05


def test_importing_it_imports_neither_numpy_nor_a_transport() -> None:
    script = "import sys, edgekit.devices.local, edgekit.devices.fake; print(*sys.modules)"

    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert not {"numpy", "asyncssh", "adbutils", "onnxruntime"} & set(answer.stdout.split())
