"""What every device must do; an implementation passes by inheriting `DeviceConformance` and saying how it is reached.

Jobs here are small shell scripts. A device without a shell carries out the scripts of this module by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from edgekit.devices import Completed, Device, Job, JobStatus
from edgekit.errors import DeviceError, LinkLostError, UsageError

Connect = Callable[[], Device]
"""Makes a new link to one and the same device."""

LIMIT_SECONDS = 30.0
ALL_BYTES = bytes(range(256))

SAY = "echo said; echo complaint >&2; exit 3"
SHOW_ARGUMENTS = 'for argument in "$@"; do printf "%s\\0" "$argument"; done'
SHOW_VARIABLE = 'printf "%s" "$EDGEKIT_WORD"'
SHOW_INPUT = "cat input"
COPY_INPUT = "cat input >output"
SHOW_STDIN = "cat"
SPEAK_LATE = "echo early; sleep 0.5; echo late"
KEEP_RUNNING = "echo $$; sleep 60"
KEEP_RUNNING_AS_TWO = "sleep 60 & echo $$ $!; wait"
IGNORE_TERM = "trap '' TERM; echo $$; while :; do sleep 1; done"
LEAVE_A_CHILD = "sleep 60 >/dev/null 2>&1 & echo $!"
SPEAK_MUCH = "head -c 5000000 /dev/zero"
COUNT_STARTS = "echo started >>starts; cat starts"

HOSTILE_NAMES = {
    "single quote": "a'b",
    "double quote": 'a"b',
    "substitution": "$(touch canary)",
    "backticks": "`touch canary`",
    "semicolon": "a;touch canary",
    "newline": "a\ntouch canary",
    "trailing newline": "a\n",
    "leading dash": "-rf",
    "leading dot": ".hidden",
    "parent": "..",
    "path out": "../../escaped",
    "absolute path": "/tmp/escaped",
    "deep path": "a/b/c",
    "space": "a b",
    "star": "a*",
    "letters beyond ASCII": "naïve",
    "digits beyond ASCII": "a٣",
    "NUL": "a\0b",
    "empty": "",
    "very long": "a" * 5000,
}


def finish(device: Device, job_name: str) -> tuple[JobStatus, bytes]:
    """The last status of a job and all its output, once it has ended."""
    output = b""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        status = device.poll(job_name, len(output))
        output += status.output
        if status.state != "running":
            return status, output
        time.sleep(0.01)
    pytest.fail(f"{job_name} did not end in {LIMIT_SECONDS} seconds")


def read_numbers(device: Device, job_name: str) -> list[int]:
    """The process numbers that a job writes in its first line."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        output = device.poll(job_name).output
        if output.endswith(b"\n"):
            return [int(word) for word in output.split()]
        time.sleep(0.01)
    pytest.fail(f"{job_name} wrote nothing in {LIMIT_SECONDS} seconds")


def shell_job(script: str, *arguments: str, files: dict[str, str] | None = None, **environment: str) -> Job:
    return Job(("sh", "-c", script, "sh", *arguments), files or {}, environment)


def run_shell(device: Device, script: str, *arguments: str, stdin: bytes = b"") -> Completed:
    return device.execute(("sh", "-c", script, "sh", *arguments), stdin=stdin)


def wait_until(condition: Callable[[], bool], limit_seconds: float = LIMIT_SECONDS) -> bool:
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class DeviceConformance:
    """The suite; a fixture `connect` is all that an implementation adds, and `alive` where its processes are not those
    of this machine."""

    @pytest.fixture
    def connect(self) -> Connect:
        raise NotImplementedError

    @pytest.fixture
    def device(self, connect: Connect) -> Iterator[Device]:
        device = connect()
        yield device
        for job_name in device.jobs():
            device.cancel(job_name)
        device.close()

    def alive(self, process: int) -> bool:
        """Whether a process of the device is there, and more than the remains of one."""
        try:
            stat = Path(f"/proc/{process}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    def test_facts_are_those_of_a_machine(self, device: Device) -> None:
        facts = device.facts()

        assert facts.architecture and facts.kernel and facts.cpu and facts.boot_id
        assert 1 <= facts.cores <= 4096
        assert facts.user_bits in (32, 64)
        assert facts.folder.is_absolute()

    def test_facts_of_two_links_are_the_same(self, device: Device, connect: Connect) -> None:
        assert connect().facts() == device.facts()

    def test_a_command_answers_on_both_streams_and_with_its_exit_code(self, device: Device) -> None:
        assert run_shell(device, SAY) == Completed(3, b"said\n", b"complaint\n")

    def test_stdin_and_stdout_of_a_command_carry_any_bytes(self, device: Device) -> None:
        content = ALL_BYTES * 1000

        assert run_shell(device, SHOW_STDIN, stdin=content).stdout == content

    def test_arguments_of_a_command_arrive_as_they_are(self, device: Device) -> None:
        arguments = [text for text in HOSTILE_NAMES.values() if "\0" not in text]

        answer = run_shell(device, SHOW_ARGUMENTS, *arguments)

        assert answer.stdout == as_shown(arguments)

    def test_a_program_that_is_not_there_is_told_by_its_exit_code(self, device: Device) -> None:
        assert device.execute(("no-such-program-anywhere",)).exit_code == 127

    @pytest.mark.parametrize("argv", [(), ("",), ("-rf",), ("echo", "a\0b"), ("echo", "\udcff")])
    def test_a_command_that_cannot_be_passed_on_is_refused(self, device: Device, argv: Sequence[str]) -> None:
        with pytest.raises(UsageError):
            device.execute(argv)

    def test_a_command_that_takes_too_long_is_given_up(self, device: Device) -> None:
        start = time.monotonic()

        with pytest.raises(LinkLostError):
            device.execute(("sh", "-c", KEEP_RUNNING), deadline_seconds=0.3)

        assert time.monotonic() - start < 10

    def test_after_a_deadline_the_device_answers_again(self, device: Device) -> None:
        with pytest.raises(LinkLostError):
            device.execute(("sh", "-c", KEEP_RUNNING), deadline_seconds=0.3)

        assert run_shell(device, SAY).stdout == b"said\n"

    @pytest.mark.parametrize(
        "content", [b"", b"text\n", b"\0", ALL_BYTES, b"\n\n", ALL_BYTES * 2**16], ids=lambda content: str(len(content))
    )
    def test_a_file_comes_back_as_it_was_pushed(self, device: Device, content: bytes) -> None:
        device.push("file.bin", content)

        assert device.fetch("file.bin") == content

    def test_a_file_that_is_pushed_again_is_replaced(self, device: Device) -> None:
        device.push("file", b"a longer first content")

        device.push("file", b"second")

        assert device.fetch("file") == b"second"

    def test_pushing_the_same_twice_leaves_it_there(self, device: Device) -> None:
        device.push("file", ALL_BYTES)
        device.push("file", ALL_BYTES)

        assert device.fetch("file") == ALL_BYTES

    def test_the_longest_name_can_be_pushed(self, device: Device) -> None:
        device.push("n" * 100, b"content")

        assert device.fetch("n" * 100) == b"content"

    def test_many_files_come_back_as_they_were_pushed(self, device: Device) -> None:
        contents = {f"file-{number}": ALL_BYTES * number for number in range(12)} | {"n" * 100: b"the longest name"}
        device.push("file-3", b"to be replaced")

        device.push_all(contents)

        assert {name: device.fetch(name) for name in contents} == contents

    def test_pushing_no_files_changes_nothing(self, device: Device) -> None:
        device.push_all({})

        assert device.jobs() == ()

    def test_many_files_can_be_pushed_again(self, device: Device) -> None:
        device.push_all({"first": b"1", "second": b"2"})

        device.push_all({"first": b"1", "second": b"two", "third": b""})

        assert [device.fetch(name) for name in ("first", "second", "third")] == [b"1", b"two", b""]

    def test_files_that_were_removed_are_gone_and_others_stay(self, device: Device) -> None:
        device.push_all({"first": b"1", "second": b"2", "third": b"3"})

        device.remove(["first", "absent", "second"])

        assert device.fetch("third") == b"3"
        for name in ("first", "second"):
            with pytest.raises(DeviceError, match=name):
                device.fetch(name)

    def test_a_job_keeps_a_file_that_was_removed(self, device: Device) -> None:
        device.push("stored", ALL_BYTES)
        device.start("job", shell_job(SHOW_INPUT, files={"input": "stored"}))

        device.remove(["stored"])

        assert finish(device, "job")[1] == ALL_BYTES

    def test_fetching_what_is_not_there_is_an_error_that_names_it(self, device: Device) -> None:
        with pytest.raises(DeviceError, match="absent"):
            device.fetch("absent")

    @pytest.mark.parametrize("name", ["absent/file", "here/absent"])
    def test_fetching_what_no_job_left_is_an_error(self, device: Device, name: str) -> None:
        device.start("here", shell_job(SAY))

        with pytest.raises(DeviceError):
            device.fetch(name)

    @pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
    def test_a_hostile_name_is_refused_everywhere(self, device: Device, name: str) -> None:
        job = shell_job(SAY)
        uses: list[Callable[[], object]] = [
            lambda: device.push(name, b"content"),
            lambda: device.push_all({"file": b"content", name: b"content"}),
            lambda: device.remove([name]),
            lambda: device.fetch(name),
            lambda: device.fetch(f"{name}/file"),
            lambda: device.fetch(f"job/{name}"),
            lambda: device.start(name, job),
            lambda: device.start("job", shell_job(SAY, files={name: "file"})),
            lambda: device.start("job", shell_job(SAY, files={"file": name})),
            lambda: device.poll(name),
            lambda: device.cancel(name),
        ]

        for use in uses:
            with pytest.raises(UsageError):
                use()
        assert device.jobs() == ()

    @pytest.mark.parametrize(
        "job",
        [
            Job((), {}, {}),
            Job(("sh", "a\0b"), {}, {}),
            Job(("sh",), {}, {"A B": "c"}),
            Job(("sh",), {}, {"A;touch canary": "c"}),
            Job(("sh",), {}, {"": "c"}),
            Job(("sh",), {}, {"A": "\0"}),
            Job(("sh",), {}, {"A": "x" * 2**20}),
        ],
        ids=["no argv", "NUL in argv", "space", "command", "empty variable", "NUL in a value", "too much"],
    )
    def test_a_job_that_cannot_be_passed_on_is_refused(self, device: Device, job: Job) -> None:
        with pytest.raises(UsageError):
            device.start("job", job)

        assert device.jobs() == ()

    def test_a_job_ends_with_its_output_error_and_exit_code(self, device: Device) -> None:
        device.start("job", shell_job(SAY))

        status, output = finish(device, "job")

        assert (status.state, status.exit_code, output, status.error) == ("ended", 3, b"said\n", "complaint\n")

    def test_arguments_of_a_job_arrive_as_they_are(self, device: Device) -> None:
        arguments = [text for text in HOSTILE_NAMES.values() if "\0" not in text]
        device.start("job", shell_job(SHOW_ARGUMENTS, *arguments))

        assert finish(device, "job")[1] == as_shown(arguments)

    @pytest.mark.parametrize("value", ["", "two words", "'\"`$(touch canary)\\\n", "naïve ٣", "-n", "\\0101"])
    def test_the_environment_of_a_job_arrives_as_it_is(self, device: Device, value: str) -> None:
        device.start("job", shell_job(SHOW_VARIABLE, EDGEKIT_WORD=value))

        assert finish(device, "job")[1] == value.encode()

    def test_a_job_finds_files_under_the_names_it_was_given(self, device: Device) -> None:
        device.push("stored", ALL_BYTES)
        device.push("stored2", b"other")
        device.start("job", shell_job(SHOW_INPUT, files={"input": "stored", "second": "stored2"}))

        assert finish(device, "job")[1] == ALL_BYTES

    def test_what_a_job_leaves_can_be_fetched(self, device: Device) -> None:
        device.push("stored", ALL_BYTES)
        device.start("job", shell_job(COPY_INPUT, files={"input": "stored"}))
        finish(device, "job")

        assert device.fetch("job/output") == ALL_BYTES

    def test_a_job_with_a_file_that_was_not_pushed_is_an_error_that_names_it(self, device: Device) -> None:
        with pytest.raises(DeviceError, match="unpushed"):
            device.start("job", shell_job(SHOW_INPUT, files={"input": "unpushed"}))

    def test_a_job_that_was_refused_for_a_file_starts_once_it_is_there(self, device: Device) -> None:
        job = shell_job(SHOW_INPUT, files={"input": "later"})
        with pytest.raises(DeviceError):
            device.start("job", job)
        device.push("later", b"content")

        device.start("job", job)

        assert finish(device, "job")[1] == b"content"

    def test_a_job_whose_program_is_not_there_ends_with_127(self, device: Device) -> None:
        device.start("job", Job(("no-such-program-anywhere",), {}, {}))

        assert finish(device, "job")[0].exit_code == 127

    def test_output_is_told_from_the_offset_on(self, device: Device) -> None:
        device.start("job", shell_job(SAY))
        finish(device, "job")

        assert [device.poll("job", offset).output for offset in (0, 2, 5, 99)] == [b"said\n", b"id\n", b"", b""]

    def test_a_negative_offset_is_refused(self, device: Device) -> None:
        device.start("job", shell_job(SAY))

        with pytest.raises(UsageError):
            device.poll("job", -1)

    def test_a_job_counts_as_running_until_the_last_piece_of_its_output(self, device: Device) -> None:
        device.start("job", shell_job(SPEAK_MUCH))

        status, output = finish(device, "job")

        assert (status.exit_code, len(output), set(output)) == (0, 5_000_000, {0})

    def test_a_running_job_has_no_exit_code(self, device: Device) -> None:
        device.start("job", shell_job(KEEP_RUNNING))

        status = device.poll("job")

        assert (status.state, status.exit_code, status.error) == ("running", None, "")

    def test_a_job_outlives_its_link_and_is_picked_up_by_another(self, device: Device, connect: Connect) -> None:
        device.start("job", shell_job(SPEAK_LATE))
        device.close()

        status, output = finish(connect(), "job")

        assert (status.exit_code, output) == (0, b"early\nlate\n")

    def test_a_link_that_was_closed_opens_again(self, device: Device) -> None:
        device.close()

        assert run_shell(device, SAY).exit_code == 3

    def test_a_job_that_is_started_twice_runs_once(self, device: Device, connect: Connect) -> None:
        job = shell_job(COUNT_STARTS)
        device.start("job", job)
        finish(device, "job")

        connect().start("job", job)

        assert finish(device, "job")[1] == b"started\n"

    def test_a_running_job_that_is_started_again_goes_on(self, device: Device) -> None:
        device.start("job", shell_job(KEEP_RUNNING))
        process = read_numbers(device, "job")

        device.start("job", shell_job(KEEP_RUNNING))

        assert read_numbers(device, "job") == process

    def test_two_jobs_run_at_the_same_time(self, device: Device) -> None:
        device.start("first", shell_job(KEEP_RUNNING))
        device.start("second", shell_job(KEEP_RUNNING))

        processes = read_numbers(device, "first") + read_numbers(device, "second")

        assert all(self.alive(process) for process in processes)

    def test_jobs_lists_those_that_run_and_those_that_ended(self, device: Device) -> None:
        device.start("running", shell_job(KEEP_RUNNING))
        device.start("ended", shell_job(SAY))
        finish(device, "ended")

        assert sorted(device.jobs()) == ["ended", "running"]

    def test_polling_a_job_that_is_not_there_is_an_error_that_names_it(self, device: Device) -> None:
        with pytest.raises(DeviceError, match="nowhere"):
            device.poll("nowhere")

    @pytest.mark.parametrize("script", [KEEP_RUNNING, KEEP_RUNNING_AS_TWO, IGNORE_TERM, LEAVE_A_CHILD])
    def test_no_process_is_left_of_a_job_that_was_cancelled(self, device: Device, script: str) -> None:
        device.start("job", shell_job(script))
        processes = read_numbers(device, "job")
        assert all(self.alive(process) for process in processes)

        device.cancel("job")

        assert not any(self.alive(process) for process in processes)

    def test_nothing_is_known_of_a_job_that_was_cancelled(self, device: Device) -> None:
        device.start("job", shell_job(COPY_INPUT))

        device.cancel("job")

        assert device.jobs() == ()
        with pytest.raises(DeviceError):
            device.poll("job")

    def test_cancelling_one_job_leaves_the_others(self, device: Device) -> None:
        device.start("job", shell_job(KEEP_RUNNING))
        device.start("job.2", shell_job(KEEP_RUNNING))
        (other,) = read_numbers(device, "job.2")

        device.cancel("job")

        assert self.alive(other) and device.poll("job.2").state == "running"

    def test_cancelling_a_job_that_is_not_there_does_nothing(self, device: Device) -> None:
        device.cancel("nowhere")

        assert device.jobs() == ()

    def test_a_name_can_be_used_again_after_a_job_was_cancelled(self, device: Device) -> None:
        device.start("job", shell_job(KEEP_RUNNING))
        device.cancel("job")

        device.start("job", shell_job(SAY))

        assert finish(device, "job")[1] == b"said\n"

    def test_pushed_files_stay_when_a_job_is_cancelled(self, device: Device) -> None:
        device.push("stored", ALL_BYTES)
        device.start("job", shell_job(COPY_INPUT, files={"input": "stored"}))
        device.cancel("job")

        assert device.fetch("stored") == ALL_BYTES


def as_shown(arguments: Sequence[str]) -> bytes:
    return b"".join(argument.encode() + b"\0" for argument in arguments)
