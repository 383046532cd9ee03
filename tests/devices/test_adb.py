"""What AdbLink makes of a phone behind a real adb server: commands, refusals with hints, and links that are cut.

The phone is a stand-in (`adbd`, `phone`), and the server that of adbutils; both listen on 127.0.0.1 only.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edgekit.devices import Device
from edgekit.devices.adb import FOLDER, AdbLink, open_adb
from edgekit.errors import DeviceError, LinkLostError, MissingExtraError, UsageError
from tests.devices.adbd import Adbd
from tests.devices.conformance import Connect, DeviceConformance
from tests.devices.cutting import survive_cuts
from tests.devices.phone import NoPhoneError, Phone, phone_at, plain_phone_at

# Phones of several workers would share this machine's processes, and end each other's jobs of the same name.
pytestmark = pytest.mark.xdist_group("phone")

adbutils = pytest.importorskip("adbutils", reason="adbutils is not installed: pip install 'edgekit[devices]'")

HOSTILE = (
    "; touch canary",
    "$(touch canary)",
    "`touch canary`",
    "a'; touch canary; '",
    'a"; touch canary; "',
    "a\ntouch canary\n",
    "| touch canary",
    "&& touch canary",
    "> canary",
    "\\'; touch canary #",
    "-s",
    "--help",
    "${IFS}touch${IFS}canary",
    "ключ 🔑",
    "*",
    " ",
    "",
)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(claim: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not claim() and time.monotonic() < end:
        time.sleep(0.02)
    return claim()


@contextmanager
def own_adb(folder: Path) -> Iterator[dict[str, str]]:
    """Environment of an adb server that knows nothing of this machine's devices, keys or other servers; whoever uses it
    first starts it, and its own kill-server ends it."""
    port = free_port()
    environment = {
        "ANDROID_ADB_SERVER_PORT": str(port),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "ADB_MDNS": "0",
        "ADB_USB": "0",
        "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",
    }
    try:
        yield environment
    finally:
        if is_listening(port):
            official_adb(environment, "kill-server")
            assert wait_until(lambda: not is_listening(port))


def official_adb(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [adbutils.adb_path(), *arguments]
    return subprocess.run(
        command, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )


@pytest.fixture(scope="session")
def adb_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with own_adb(tmp_path_factory.mktemp("adb")) as environment:
        yield environment


@pytest.fixture(scope="session")
def any_phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    root = tmp_path_factory.mktemp("phone") / "root"
    with ExitStack() as stack:
        try:
            phone = stack.enter_context(phone_at(root))
        except NoPhoneError as error:
            phone = stack.enter_context(plain_phone_at(tmp_path_factory.mktemp("plain") / "root", str(error)))
        yield phone


@pytest.fixture
def android(any_phone: Phone) -> Phone:
    if not any_phone.is_entered:
        pytest.skip(any_phone.shortcoming)
    return any_phone


@pytest.fixture(autouse=True)
def environment(adb_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in adb_environment.items():
        monkeypatch.setenv(name, value)
    return adb_environment


def forget(adbd: Adbd) -> None:
    """The server tries for minutes to connect again to what it knows: later tests want it alone."""
    port = int(os.environ["ANDROID_ADB_SERVER_PORT"])
    if is_listening(port):
        adbutils.AdbClient(port=port).disconnect(adbd.address)


def known_states() -> dict[str, str]:
    client = adbutils.AdbClient(port=int(os.environ["ANDROID_ADB_SERVER_PORT"]))
    return {info.serial: info.state for info in client.list()}


@contextmanager
def listening(phone: Phone, **settings: object) -> Iterator[Adbd]:
    with Adbd(phone, **settings) as adbd:  # type: ignore[arg-type]
        try:
            yield adbd
        finally:
            forget(adbd)


@pytest.fixture
def adbd(any_phone: Phone, environment: dict[str, str]) -> Iterator[Adbd]:
    with listening(any_phone, keys="none needed") as adbd:
        yield adbd


@pytest.fixture
def link(adbd: Adbd) -> AdbLink:
    return AdbLink(adbd.address)


def shell(link: AdbLink, script: str, *arguments: str, stdin: bytes = b"", seconds: float = 20) -> bytes:
    completed = link.execute(("sh", "-c", script, "sh", *arguments), stdin, seconds)
    assert completed.exit_code == 0, completed.stderr
    return completed.stdout


def comes_through(link: AdbLink) -> bool:
    try:
        return link.execute(("true",), b"", 20).exit_code == 0
    except DeviceError:  # lost, or not known to the server while that connects again
        return False


def empty_folder(link: AdbLink, phone: Phone) -> str:
    return shell(link, 'rm -rf "$1" && mkdir "$1" && echo "$1"', f"{phone.folder}/test").decode().strip()


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A server that gives these answers, one per request, each on whatever connection it comes; the last one again and
    again. Its port."""
    left = list(answers)

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                while request := connection.recv(65536):
                    assert request
                    answer = left.pop(0) if len(left) > 1 else left[0]
                    connection.sendall(answer)
                    if not answer.endswith(b"OKAY"):
                        break

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def text(answer: bytes, message: str) -> bytes:
    return answer + b"%04x" % len(message) + message.encode()


class TestCommands:
    @pytest.mark.parametrize("code", (0, 1, 7, 255))
    def test_the_exit_code_is_that_of_the_command(self, link: AdbLink, code: int) -> None:
        assert link.execute(("sh", "-c", f"exit {code}"), b"", 20).exit_code == code

    def test_a_killed_command_has_the_exit_code_of_a_shell(self, link: AdbLink) -> None:
        assert link.execute(("sh", "-c", "kill -9 $$"), b"", 20).exit_code == 128 + 9

    def test_a_command_that_does_not_exist_ends_with_127(self, link: AdbLink) -> None:
        assert link.execute(("no-such-program",), b"", 20).exit_code == 127

    def test_stdout_and_stderr_come_apart(self, link: AdbLink) -> None:
        completed = link.execute(("sh", "-c", "echo out; echo err >&2; echo out"), b"", 20)

        assert (completed.stdout, completed.stderr) == (b"out\nout\n", b"err\n")

    def test_bytes_pass_unchanged_in_both_directions(self, link: AdbLink) -> None:
        content = bytes(range(256)) + b"\r\n\n\x03\x04\x1a"

        assert link.execute(("cat",), content, 20).stdout == content

    def test_without_stdin_a_reading_command_sees_its_end(self, link: AdbLink) -> None:
        assert link.execute(("cat",), b"", 20).stdout == b""

    def test_thirty_megabytes_become_a_file(self, link: AdbLink, any_phone: Phone) -> None:
        content = os.urandom(30_000_000)
        folder = empty_folder(link, any_phone)

        shell(link, 'cat >"$1"', f"{folder}/large", stdin=content, seconds=120)

        answer = shell(link, 'sha256sum <"$1"', f"{folder}/large", seconds=60)
        assert answer.split()[0].decode() == hashlib.sha256(content).hexdigest()

    def test_thirty_megabytes_pass_both_ways_at_once(self, link: AdbLink) -> None:
        content = os.urandom(30_000_000)

        assert link.execute(("cat",), content, 120).stdout == content

    def test_a_command_that_does_not_read_its_stdin_still_tells_its_exit_code(self, link: AdbLink) -> None:
        completed = link.execute(("sh", "-c", "echo early; exit 5"), bytes(8_000_000), 60)

        assert (completed.exit_code, completed.stdout) == (5, b"early\n")

    @pytest.mark.parametrize("argument", HOSTILE)
    def test_an_argument_is_passed_as_it_is_and_runs_nothing(
        self, link: AdbLink, any_phone: Phone, argument: str
    ) -> None:
        folder = empty_folder(link, any_phone)

        answer = shell(link, 'cd "$1" && shift && printf "%s|" "$@" && ls -a', folder, argument, argument)

        assert answer.decode() == f"{argument}|{argument}|.\n..\n"

    @pytest.mark.parametrize("program", HOSTILE[:-1])
    def test_a_name_of_a_program_runs_nothing_else(self, link: AdbLink, any_phone: Phone, program: str) -> None:
        completed = link.execute((program,), b"", 20)

        assert completed.exit_code != 0
        assert shell(link, "ls -d canary /canary 2>/dev/null; true") == b""

    def test_a_command_longer_than_a_request_of_adb_runs_all_the_same(self, link: AdbLink) -> None:
        long = "x'" * 40_000

        assert shell(link, "printf %s ${#1}; cat", long, stdin=b" and stdin") == b"80000 and stdin"

    @pytest.mark.parametrize("argv", ((), ("echo", "a\0b")))
    def test_what_is_no_command_is_refused(self, argv: tuple[str, ...]) -> None:
        with pytest.raises(UsageError):
            AdbLink("never-asked").execute(argv, b"", 20)


class TestAddresses:
    @pytest.mark.parametrize("address", (*HOSTILE[:-1], "a\0b", "../..", "x" * 300, "127.0.0.1:1; touch canary"))
    def test_a_hostile_address_is_an_error_and_runs_nothing(
        self, tmp_path: Path, any_phone: Phone, monkeypatch: pytest.MonkeyPatch, address: str
    ) -> None:
        monkeypatch.chdir(tmp_path)

        with pytest.raises((DeviceError, UsageError)):
            AdbLink(address).execute(("true",), b"", 20)

        assert not list(tmp_path.glob("**/canary")) and not (any_phone.root / "canary").exists()

    def test_a_serial_that_is_not_attached_is_told_with_what_to_check(self) -> None:
        with pytest.raises(DeviceError, match="device R58M123 is not known to adb") as caught:
            AdbLink("R58M123").execute(("true",), b"", 20)

        assert not isinstance(caught.value, LinkLostError)
        assert "adb devices" in (caught.value.hint or "")

    def test_an_address_where_nothing_listens_is_told_with_what_to_check(self) -> None:
        with pytest.raises(DeviceError, match=r"cannot be reached.*refused") as caught:
            AdbLink(f"127.0.0.1:{free_port()}").execute(("true",), b"", 20)

        assert not isinstance(caught.value, LinkLostError)
        assert "adb tcpip" in (caught.value.hint or "")

    def test_no_address_means_the_only_device(self, link: AdbLink) -> None:
        shell(link, "true")

        assert shell(AdbLink(), "echo me") == b"me\n"

    def test_no_address_and_no_device_is_an_error(self) -> None:
        with pytest.raises(DeviceError, match="no Android device is attached"):
            AdbLink().execute(("true",), b"", 20)

    def test_no_address_and_two_devices_is_an_error_that_lists_them(self, adbd: Adbd, any_phone: Phone) -> None:
        with listening(any_phone, keys="none needed") as other:
            shell(AdbLink(adbd.address), "true")
            shell(AdbLink(other.address), "true")

            with pytest.raises(DeviceError, match="more than one") as caught:
                AdbLink().execute(("true",), b"", 20)

            assert adbd.address in caught.value.message and other.address in caught.value.message

    def test_each_of_two_devices_is_reached_by_its_address(self, adbd: Adbd, tmp_path: Path, any_phone: Phone) -> None:
        with (
            plain_phone_at(tmp_path / "second", "a second one is enough") as phone,
            listening(phone, keys="none needed") as other,
        ):
            answers = [shell(AdbLink(one.address), "echo $PHONE").strip().decode() for one in (adbd, other)]

        assert answers == [any_phone.identity, phone.identity]


class TestTrust:
    def test_a_device_that_does_not_accept_the_key_is_told_with_what_to_do(self, any_phone: Phone) -> None:
        with listening(any_phone, keys="refused") as adbd:
            with pytest.raises(DeviceError, match="does not trust this machine") as caught:
                AdbLink(adbd.address).execute(("true",), b"", 20)

            assert "Allow USB debugging" in (caught.value.hint or "")
            assert known_states()[adbd.address] == "unauthorized"

    def test_a_device_whose_user_accepts_the_key_is_used_by_the_same_call(self, any_phone: Phone) -> None:
        with listening(any_phone, keys="accepted when offered") as adbd:
            assert shell(AdbLink(adbd.address), "echo trusted") == b"trusted\n"
            assert len(adbd.trusted_keys) == 1

    def test_an_accepted_key_opens_the_device_after_its_restart(self, any_phone: Phone) -> None:
        with listening(any_phone, keys="accepted when offered") as first:
            shell(AdbLink(first.address), "true")

        with listening(any_phone, keys="refused") as second:
            second.trusted_keys = first.trusted_keys

            assert shell(AdbLink(second.address), "echo again") == b"again\n"


class TestServer:
    def test_it_is_started_when_none_runs_and_left_running(self, any_phone: Phone, tmp_path: Path) -> None:
        with own_adb(tmp_path) as own, pytest.MonkeyPatch.context() as patch:
            for name, value in own.items():
                patch.setenv(name, value)
            with listening(any_phone, keys="none needed") as adbd:
                link = AdbLink(adbd.address)
                assert shell(link, "echo started") == b"started\n"
                link.close()
                assert is_listening(int(own["ANDROID_ADB_SERVER_PORT"]))

    def test_one_that_runs_is_used_without_any_adb_program(
        self, link: AdbLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shell(link, "true")
        monkeypatch.setitem(sys.modules, "adbutils", None)

        assert shell(link, "echo used") == b"used\n"

    def test_without_adbutils_and_a_server_the_install_line_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
        monkeypatch.setitem(sys.modules, "adbutils", None)

        with pytest.raises(MissingExtraError) as caught:
            AdbLink("R58M123").execute(("true",), b"", 20)

        assert caught.value.hint == "pip install 'edgekit[devices]'"

    @pytest.mark.parametrize("port", ("", "adb", "0", "65536", "-1", "５０３７"))
    def test_a_port_that_is_none_is_refused(self, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)

        with pytest.raises(UsageError, match="ANDROID_ADB_SERVER_PORT"):
            AdbLink("R58M123").execute(("true",), b"", 20)

    @pytest.mark.parametrize(
        ("message", "meaning"),
        (
            ("device offline", "is offline"),
            ("device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set", "does not trust this machine"),
            ("device still authorizing", "does not trust this machine"),
            ("device still connecting", "does not finish connecting"),
            ("insufficient permissions for device: missing udev rules?", "may not be opened by this user"),
            ("something new", "adb says 'something new'"),
        ),
    )
    def test_what_it_refuses_is_a_device_error_in_plain_words(
        self, monkeypatch: pytest.MonkeyPatch, message: str, meaning: str
    ) -> None:
        monkeypatch.setattr("edgekit.devices.adb._SETTLING_SECONDS", 0.2)
        with answering(text(b"FAIL", message)) as port:
            monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))

            with pytest.raises(DeviceError, match=meaning) as caught:
                AdbLink("R58M123").execute(("true",), b"", 20)

        assert type(caught.value) is DeviceError

    def test_a_device_without_the_shell_protocol_is_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with answering(b"OKAY", text(b"OKAY", "cmd")) as port:
            monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))

            with pytest.raises(DeviceError, match="shell protocol 2") as caught:
                AdbLink("R58M123").execute(("true",), b"", 20)

        assert "Android 7" in (caught.value.hint or "")

    @pytest.mark.parametrize("answer", (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"OKAYzzzz", b"FAIL-001"))
    def test_what_is_no_adb_server_is_said_to_be_none(self, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
        with answering(answer) as port:
            monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))

            with pytest.raises(DeviceError, match=f"port {port} is no adb server"):
                AdbLink("R58M123").execute(("true",), b"", 20)


class TestLosses:
    def test_a_deadline_is_kept_and_ends_the_command(self, link: AdbLink, any_phone: Phone) -> None:
        shell(link, "true")
        before = time.monotonic()

        with pytest.raises(LinkLostError, match="did not answer in time"):
            link.execute(("sleep", "60"), b"", 0.5)

        assert time.monotonic() - before < 5
        assert wait_until(lambda: not list(any_phone.processes()))

    def test_a_command_that_was_too_slow_costs_nobody_the_connection(self, adbd: Adbd, link: AdbLink) -> None:
        with pytest.raises(LinkLostError):
            link.execute(("sleep", "60"), b"", 1)

        assert shell(link, "echo next") == b"next\n"
        assert adbd.links_made == 1

    def test_a_link_cut_while_a_command_runs_is_lost_and_made_again(self, adbd: Adbd, link: AdbLink) -> None:
        shell(link, "true")
        cutter = threading.Timer(0.3, adbd.cut)
        cutter.start()

        with pytest.raises(LinkLostError):
            link.execute(("sleep", "60"), b"", 30)

        cutter.join()
        assert shell(link, "echo next") == b"next\n"

    def test_a_silent_device_is_lost_at_the_deadline_and_answers_once_thawed(self, adbd: Adbd, link: AdbLink) -> None:
        shell(link, "true")
        adbd.freeze()
        before = time.monotonic()

        for _ in range(2):
            with pytest.raises(LinkLostError):
                link.execute(("true",), b"", 1)

        assert time.monotonic() - before < 8
        adbd.thaw()
        assert shell(link, "echo thawed") == b"thawed\n"

    def test_a_link_that_became_silent_for_good_is_replaced(self, adbd: Adbd, link: AdbLink) -> None:
        shell(link, "true")
        adbd.lose_links()

        with pytest.raises(LinkLostError):
            link.execute(("true",), b"", 1)

        assert shell(link, "echo replaced") == b"replaced\n"

    def test_a_link_cut_while_nothing_runs_is_made_again_unnoticed(self, adbd: Adbd, link: AdbLink) -> None:
        shell(link, "true")
        adbd.cut()
        assert wait_until(lambda: known_states().get(adbd.address) == "offline")

        assert shell(link, "echo unnoticed") == b"unnoticed\n"

    def test_a_device_that_is_gone_is_a_lost_link_until_it_is_back(self, any_phone: Phone) -> None:
        with listening(any_phone, keys="none needed") as adbd:
            link = AdbLink(adbd.address)
            shell(link, "true")

        for _ in range(2):
            with pytest.raises(LinkLostError):
                link.execute(("true",), b"", 5)

        with listening(any_phone, keys="none needed", port=adbd.port):
            assert shell(link, "echo back") == b"back\n"

    def test_cut_at_any_step_there_is_the_whole_file_or_none(self, adbd: Adbd, any_phone: Phone) -> None:
        content = os.urandom(2_200_000)
        folder = empty_folder(AdbLink(adbd.address), any_phone)

        def write(link: AdbLink) -> None:
            shell(
                link,
                'cd "$1" && cat >part && [ $(wc -c <part) = "$2" ] && mv part whole',
                folder,
                "2200000",
                stdin=content,
            )

        forget(adbd)
        steps = adbd.steps(lambda: write(AdbLink(adbd.address)))
        assert len(steps) > 8
        for cut_bytes in sorted({*(step - 1 for step in steps), *(step - 500_000 for step in steps if step > 500_000)}):
            forget(adbd)
            link = AdbLink(adbd.address)
            adbd.cut_after(cut_bytes)
            try:
                write(link)
            except DeviceError:
                adbd.cut_after(None)
            wait_until(lambda link=link: comes_through(link))  # type: ignore[misc]
            left = shell(link, 'cd "$1" && rm -f part && ls && cat whole 2>/dev/null; rm -f whole', folder)
            assert left in (b"", b"whole\n" + content), f"cut after {cut_bytes} of {steps[-1]} bytes"


class TestStandIn:
    """The stand-in is worth as much as adb's own program believes it to be a device."""

    def test_adbs_own_shell_gets_output_and_exit_code(
        self, adbd: Adbd, link: AdbLink, environment: dict[str, str]
    ) -> None:
        shell(link, "true")

        ran = official_adb(environment, "-s", adbd.address, "shell", "echo out; echo err >&2; exit 7")

        assert (ran.returncode, ran.stdout, ran.stderr) == (7, b"out\n", b"err\n")

    def test_adbs_own_exec_gets_bytes_unchanged(self, adbd: Adbd, link: AdbLink, environment: dict[str, str]) -> None:
        shell(link, "true")

        ran = official_adb(environment, "-s", adbd.address, "exec-out", "printf 'a\\r\\n\\0'")

        assert ran.stdout == b"a\r\n\0"

    def test_adbs_own_push_and_pull_give_the_same_file(
        self, adbd: Adbd, any_phone: Phone, environment: dict[str, str], tmp_path: Path
    ) -> None:
        link = AdbLink(adbd.address)
        target = f"{empty_folder(link, any_phone)}/file"
        (tmp_path / "sent").write_bytes(os.urandom(3_000_000))

        official_adb(environment, "-s", adbd.address, "push", str(tmp_path / "sent"), target)
        official_adb(environment, "-s", adbd.address, "pull", target, str(tmp_path / "got"))

        assert (tmp_path / "got").read_bytes() == (tmp_path / "sent").read_bytes()
        shell(link, 'rm "$1"', target)

    def test_adbs_own_pull_of_what_is_not_there_fails(
        self, adbd: Adbd, link: AdbLink, environment: dict[str, str], tmp_path: Path
    ) -> None:
        shell(link, "true")

        ran = official_adb(environment, "-s", adbd.address, "pull", "/no/such/file", str(tmp_path / "got"))

        assert ran.returncode != 0 and not (tmp_path / "got").exists()

    def test_nobody_gets_in_without_a_key(self, any_phone: Phone, environment: dict[str, str]) -> None:
        with listening(any_phone, keys="refused") as adbd:
            official_adb(environment, "connect", adbd.address)

            ran = official_adb(environment, "-s", adbd.address, "shell", "echo in")

            assert ran.returncode != 0 and b"in\n" not in ran.stdout


class TestAdbDevice(DeviceConformance):
    @pytest.fixture
    def connect(self, adbd: Adbd, any_phone: Phone) -> Connect:
        return lambda: open_adb("phone", adbd.address, f"{any_phone.folder}/edgekit")

    @pytest.mark.parametrize(
        ("step", "cut_bytes"),
        (
            *itertools.product(("push", "start", "poll", "fetch", "cancel"), (10, 500, 2_000)),
            ("push", 400_000),
            ("fetch", 400_000),
        ),
    )
    def test_a_job_gets_through_a_cut_in_any_step(self, device: Device, adbd: Adbd, step: str, cut_bytes: int) -> None:
        device.execute(("true",))

        def cut(name: str) -> None:
            if name == step:
                adbd.cut_after(cut_bytes)

        losses = survive_cuts(device, cut, self.alive)

        adbd.cut_after(None)
        # One that hits the end of the exchange before costs nothing.
        assert losses <= 1 and adbd.links_made > 1

    @pytest.mark.parametrize("step", ("push", "cancel"))
    def test_a_job_gets_through_a_link_that_falls_silent(
        self, device: Device, adbd: Adbd, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        monkeypatch.setattr("edgekit.devices.posix.DEADLINE_SECONDS", 4.0)
        device.execute(("true",))

        losses = survive_cuts(device, lambda name: adbd.lose_links() if name == step else None, self.alive)

        assert losses == 1


class TestAndroid:
    @pytest.fixture
    def link(self, android: Phone) -> Iterator[AdbLink]:
        with listening(android, keys="none needed") as adbd:
            yield AdbLink(adbd.address)

    def test_commands_are_run_by_androids_shell_user(self, link: AdbLink) -> None:
        assert shell(link, "id -u; uname -o; echo $KSH_VERSION").startswith(b"2000\nToybox\n@(#)MIRBSD KSH")

    def test_properties_and_services_answer(self, link: AdbLink) -> None:
        answer = shell(link, "getprop ro.soc.model; dumpsys thermalservice; dumpsys battery | grep level")

        assert answer.decode().splitlines() == [
            "SM8550",
            "IsStatusOverride: false",
            "Thermal Status: 0",
            "  level: 87",
        ]

    def test_the_shell_user_may_write_below_data_local_tmp_only(self, link: AdbLink) -> None:
        shell(link, "echo x >/data/local/tmp/mine")

        assert link.execute(("sh", "-c", "echo x >/system/theirs"), b"", 20).exit_code != 0

    def test_a_device_made_by_open_adb_tells_what_it_is(self, android: Phone) -> None:
        with listening(android, keys="none needed") as adbd:
            device = open_adb("phone", adbd.address)

            facts = device.facts()

        assert facts.model == "EdgeKit Phone"
        assert facts.cpu == "SM8550"
        assert facts.cores == len(os.sched_getaffinity(0))
        assert str(facts.folder) == FOLDER
        assert facts.boot_id == (android.root / "kernel/boot_id").read_text().strip()

    def test_a_reboot_changes_the_boot_id_and_ends_what_ran(self, link: AdbLink, android: Phone) -> None:
        question = "cat /proc/sys/kernel/random/boot_id"
        before = shell(link, question)
        shell(link, "setsid sleep 60 </dev/null >/dev/null 2>&1 &")
        assert wait_until(lambda: len(list(android.processes())) == 1)

        android.reboot()

        assert shell(link, question) != before
        assert wait_until(lambda: not list(android.processes()))
