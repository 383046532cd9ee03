"""SSH against OpenSSH's own server: what a link carries, whom it trusts, and what it says when it is cut or refused."""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asyncssh.channel import SSHChannel

from edgekit.devices import ssh, trust
from edgekit.devices._base import Completed, Job
from edgekit.devices.posix import PosixDevice
from edgekit.devices.ssh import Address, Offer, SshLink, offered_key, open_ssh, parse_address
from edgekit.errors import DeviceError, EdgekitError, LinkLostError, TrustError, UsageError
from tests.devices.conformance import Connect, DeviceConformance, wait_until
from tests.devices.cutting import survive_cuts
from tests.devices.proxy import Proxy, proxy_to
from tests.devices.sshd import MISSING, PROGRAM, Sshd, free_port, make_key, public_part, running_sshd

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

DEADLINE_SECONDS = 20.0
HOSTILE = (
    "$(touch canary)",
    "`touch canary`",
    "; touch canary",
    "| touch canary",
    "& touch canary",
    "&& touch canary #",
    "\ntouch canary\n",
    "'; touch canary; '",
    '"; touch canary; "',
    "\\'; touch canary; \\'",
    "${IFS}touch${IFS}canary",
    "-oProxyCommand=touch canary",
    "> canary",
    "!touch canary",
    "~/canary; touch canary",
)


@dataclass
class Desk:
    """A user with an own configuration of ssh and an own project, in front of a server."""

    server: Sshd
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def pins(self) -> Path:
        return self.folder / "project" / ".edgekit" / "known_hosts"

    def configure(self, *lines: str, key: Path | None = None) -> None:
        """``lines`` come first, as what ssh reads first holds."""
        plain = f"Host *\n  IdentityFile {key or self.server.client_key}\n  IdentitiesOnly yes\n"
        self.config.write_text("\n".join([*lines, plain]), encoding="utf-8")

    def address(self, port: int | None = None) -> str:
        return f"127.0.0.1:{port or self.server.port}"

    def link(self, address: str | None = None) -> SshLink:
        return SshLink("pi", address or self.address(), config=self.config, pins=self.pins)

    def device(self, port: int | None = None) -> PosixDevice:
        return open_ssh("pi", self.address(port), str(self.folder / "device"), config=self.config, pins=self.pins)

    def offer(self, address: str | None = None) -> Offer:
        return offered_key("pi", address or self.address(), config=self.config, pins=self.pins)

    def trust(self, server: Sshd, port: int | None = None) -> None:
        trust.accept("127.0.0.1", port or server.port, public_key(server), self.pins)

    def run(self, *argv: str, stdin: bytes = b"", deadline_seconds: float = DEADLINE_SECONDS) -> Completed:
        """What one command answers over a link of its own."""
        link = self.link()
        try:
            return link.execute(argv, stdin, deadline_seconds)
        finally:
            link.close()


def public_key(server: Sshd) -> trust.HostKey:
    return trust.HostKey(*server.public_key.split())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd") / "server") as running:
        yield running


@pytest.fixture
def stranger(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk that trusts nobody yet."""
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.chdir(tmp_path)
    desk = Desk(server, tmp_path)
    desk.configure()
    return desk


@pytest.fixture
def desk(stranger: Desk) -> Desk:
    """A desk that trusts the server."""
    stranger.trust(stranger.server)
    return stranger


@pytest.fixture
def link(desk: Desk) -> Iterator[SshLink]:
    opened = desk.link()
    yield opened
    opened.close()


@pytest.fixture
def proxy(desk: Desk) -> Iterator[Proxy]:
    with proxy_to(desk.server.port) as between:
        desk.trust(desk.server, between.port)
        yield between


@pytest.fixture
def shaky(desk: Desk, proxy: Proxy) -> Iterator[SshLink]:
    """A link through the proxy."""
    opened = desk.link(desk.address(proxy.port))
    yield opened
    opened.close()


def refused(desk: Desk, expected: type[EdgekitError], address: str | None = None) -> EdgekitError:
    link = desk.link(address)
    try:
        with pytest.raises(expected) as caught:
            link.execute(["true"], b"", DEADLINE_SECONDS)
    finally:
        link.close()
    return caught.value


def running(word: str) -> bool:
    """Whether a process is running that has ``word`` for an argument."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if word.encode() in path.read_bytes().split(b"\0"):
                return True
    return False


def alive(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return False


def test_output_errors_and_exit_code_come_apart(link: SshLink) -> None:
    completed = link.execute(["sh", "-c", "echo out; echo err >&2; exit 7"], b"", DEADLINE_SECONDS)
    assert completed == Completed(7, b"out\n", b"err\n")


def test_a_command_ended_by_a_signal_is_told_as_a_shell_does(link: SshLink) -> None:
    assert link.execute(["sh", "-c", "kill -9 $$"], b"", DEADLINE_SECONDS).exit_code == 137


def test_bytes_pass_unchanged_both_ways(link: SshLink) -> None:
    data = bytes(range(256)) * 4000 + b"\r\n\x04\x03\xff"
    assert link.execute(["cat"], data, DEADLINE_SECONDS).stdout == data


def test_a_command_that_does_not_read_its_input_answers(link: SshLink) -> None:
    assert link.execute(["echo", "done"], bytes(5_000_000), DEADLINE_SECONDS).stdout == b"done\n"


def test_a_second_command_uses_the_open_connection(link: SshLink) -> None:
    ask = ["sh", "-c", "echo $SSH_CONNECTION"]
    assert link.execute(ask, b"", DEADLINE_SECONDS) == link.execute(ask, b"", DEADLINE_SECONDS)


def test_after_closing_the_next_command_connects_again(link: SshLink) -> None:
    link.execute(["true"], b"", DEADLINE_SECONDS)
    link.close()
    assert link.execute(["echo", "back"], b"", DEADLINE_SECONDS).stdout == b"back\n"


def test_closing_leaves_no_thread(desk: Desk) -> None:
    before = set(threading.enumerate())
    desk.run("true")
    assert {thread for thread in threading.enumerate() if thread.name == "edgekit-ssh"} <= before


def test_several_threads_share_one_link(link: SshLink) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda n: link.execute(["echo", str(n)], b"", DEADLINE_SECONDS).stdout, range(12))
    assert list(answers) == [f"{n}\n".encode() for n in range(12)]


def test_more_output_than_fits_is_refused(link: SshLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "OUTPUT_LIMIT_BYTES", 1_000_000)
    with pytest.raises(DeviceError, match="more than 1000000 bytes"):
        link.execute(["yes"], b"", DEADLINE_SECONDS)


def test_what_the_users_configuration_says_of_terminals_and_commands_does_not_matter(desk: Desk) -> None:
    desk.configure("Host *\n  RequestTTY force\n  RemoteCommand echo wrong\n  ForwardAgent yes\n  ForwardX11 yes")
    assert desk.run("cat", stdin=b"a\nb\x03c").stdout == b"a\nb\x03c"


def test_hostile_arguments_arrive_as_they_are(desk: Desk) -> None:
    arguments = [*HOSTILE, "", " ", "-", "--", "*", "ü€", "\t\r"]
    shown = desk.run("printf", "%s\\0", *arguments).stdout.decode().split("\0")[:-1]
    assert shown == arguments
    assert not (desk.server.home / "canary").exists()


@pytest.mark.parametrize("program", [*HOSTILE, "A=b", "-s", "-c", "if", "{", "%1", "a b"])
def test_a_hostile_program_name_is_a_program_that_is_not_there(link: SshLink, server: Sshd, program: str) -> None:
    completed = link.execute([program, "touch canary", "touch", "canary"], b"touch canary\n", DEADLINE_SECONDS)
    assert completed.exit_code in (126, 127)
    assert not (server.home / "canary").exists()


@pytest.mark.parametrize("argv", [[], [""], ["true", "a\0b"], ["true", "\udc80"], ["true", "x" * 200_000]])
def test_what_cannot_be_an_argument_is_refused(link: SshLink, argv: list[str]) -> None:
    with pytest.raises(UsageError):
        link.execute(argv, b"", DEADLINE_SECONDS)


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("form", ["{}", "pi@{}", "{}@127.0.0.1", "127.0.0.1:{}", "[{}]:22", "[fe80::1%{}]"])
def test_a_hostile_address_is_refused(form: str, hostile: str) -> None:
    with pytest.raises(UsageError, match="is no SSH address"):
        parse_address(form.format(hostile))


@pytest.mark.parametrize("hop", ["-oProxyCommand=x", "a;touch", "$(touch)"])
def test_a_hostile_host_to_jump_over_is_refused(desk: Desk, hop: str) -> None:
    desk.configure(f"Host pi\n  ProxyJump {shlex.quote(hop)}")
    assert "is no SSH address" in refused(desk, UsageError, "pi").message


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("pi4", Address("pi4")),
        ("pi4.local:2222", Address("pi4.local", None, 2222)),
        ("pi@10.0.0.4", Address("10.0.0.4", "pi")),
        ("pi@10.0.0.4:22", Address("10.0.0.4", "pi", 22)),
        ("[fe80::1]", Address("fe80::1")),
        ("fe80::1", Address("fe80::1")),
        ("pi@[fe80::1%eth0]:2222", Address("fe80::1%eth0", "pi", 2222)),
    ],
)
def test_addresses_are_taken_apart(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("address", ["pi4", "pi@pi4:22", "[fe80::1]", "pi@[fe80::1]:2222"])
def test_addresses_are_written_as_they_are_read(address: str) -> None:
    assert str(parse_address(address)) == address


@pytest.mark.parametrize(
    "text", ["", "@pi", "pi:", "pi:0", "pi:65536", "pi:22x", "pi:-1", "[pi]:22", "[::1", "[::1]22", "::1::2", "a" * 300]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no SSH address"):
        parse_address(text)


def test_an_unknown_host_is_refused_with_its_fingerprint(stranger: Desk) -> None:
    error = refused(stranger, TrustError)
    assert stranger.server.fingerprint in error.message
    assert error.hint is not None and "edgekit target trust pi" in error.hint


def test_the_key_offered_is_shown_without_logging_in(stranger: Desk) -> None:
    stranger.configure(key=stranger.server.folder / "host_key")
    offer = stranger.offer()
    assert offer.key.fingerprint == stranger.server.fingerprint and offer.trusted_by is None


def test_an_accepted_offer_opens_the_way(stranger: Desk) -> None:
    offer = stranger.offer()
    trust.accept(offer.host, offer.port, offer.key, stranger.pins)
    assert stranger.run("echo", "hello").stdout == b"hello\n"


def test_a_changed_key_is_refused_with_both_fingerprints(stranger: Desk, tmp_path: Path) -> None:
    make_key(tmp_path / "before")
    before = trust.HostKey(*public_part(tmp_path / "before").split())
    trust.accept("127.0.0.1", stranger.server.port, before, stranger.pins)
    error = refused(stranger, TrustError)
    assert before.fingerprint in error.message and stranger.server.fingerprint in error.message


def test_a_key_that_changed_its_kind_is_a_changed_key(stranger: Desk, tmp_path: Path) -> None:
    make_key(tmp_path / "before", "ecdsa")
    before = trust.HostKey(*public_part(tmp_path / "before").split())
    trust.accept("127.0.0.1", stranger.server.port, before, stranger.pins)
    assert "has changed" in refused(stranger, TrustError).message


def test_of_several_host_keys_the_one_that_is_known_is_asked_for(stranger: Desk) -> None:
    known = trust.HostKey(*public_part(stranger.server.folder / "host_key_rsa").split())
    trust.accept("127.0.0.1", stranger.server.port, known, stranger.pins)
    assert stranger.run("echo", "hello").stdout == b"hello\n"


def test_of_several_host_keys_the_one_is_offered_that_openssh_would_show(stranger: Desk) -> None:
    assert stranger.offer().key == public_key(stranger.server)


def test_a_host_trusted_by_the_users_own_known_hosts_is_trusted(stranger: Desk) -> None:
    users_file = Path("~/.ssh/known_hosts").expanduser()
    users_file.write_text(f"[127.0.0.1]:{stranger.server.port} {stranger.server.public_key}\n", encoding="utf-8")
    offer = stranger.offer()
    assert offer.trusted_by is not None and offer.trusted_by.place == f"{users_file}:1"
    assert stranger.run("echo", "hello").stdout == b"hello\n"


def test_a_known_hosts_file_named_in_the_configuration_is_read(stranger: Desk) -> None:
    (stranger.folder / "mine").write_text(
        f"[127.0.0.1]:{stranger.server.port} {stranger.server.public_key}\n", encoding="utf-8"
    )
    stranger.configure(f"Host *\n  UserKnownHostsFile {stranger.folder}/mine")
    assert stranger.run("echo", "hello").stdout == b"hello\n"


@pytest.mark.parametrize("file", ["/dev/null", "none"])
def test_a_configuration_that_switches_host_key_checks_off_does_not_switch_them_off(stranger: Desk, file: str) -> None:
    stranger.configure(f"Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile {file}")
    assert stranger.server.fingerprint in refused(stranger, TrustError).message


def test_a_revoked_key_is_refused_although_it_is_pinned(desk: Desk) -> None:
    with desk.pins.open("a", encoding="utf-8") as pins:
        pins.write(f"@revoked * {desk.server.public_key}\n")
    assert "revoked" in refused(desk, TrustError).message


def test_a_host_set_up_anew_is_refused_until_its_new_key_replaces_the_old(desk: Desk, tmp_path: Path) -> None:
    with running_sshd(tmp_path / "other") as other:
        desk = Desk(other, desk.folder)
        desk.configure()
        desk.trust(other)
        other.stop()
        other.new_host_key()
        other.start()
        assert "has changed" in refused(desk, TrustError).message
        offer = desk.offer()
        trust.accept(offer.host, offer.port, offer.key, desk.pins, replace=True)
        assert desk.run("echo", "hello").stdout == b"hello\n"


def test_an_alias_brings_its_host_user_port_and_key(desk: Desk) -> None:
    desk.configure(
        f"Host kitchen\n  HostName 127.0.0.1\n  Port {desk.server.port}\n  User {desk.server.user}",
        f"  IdentityFile {desk.server.client_key}",
    )
    link = desk.link("kitchen")
    assert link.execute(["echo", "hello"], b"", DEADLINE_SECONDS).stdout == b"hello\n"
    link.close()


def test_a_configuration_that_cannot_be_read_is_named(desk: Desk) -> None:
    desk.configure("Host *\n  Port many")
    error = refused(desk, DeviceError)
    assert "Port" in error.message and error.hint is not None and str(desk.config) in error.hint


def test_a_key_in_the_agent_opens_the_way(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket_path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket_path], stdout=subprocess.DEVNULL)
    try:
        assert wait_until(socket_path.exists)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        subprocess.run(["ssh-add", "-q", desk.server.client_key], check=True, stderr=subprocess.DEVNULL)
        desk.config.write_text("", encoding="utf-8")
        assert desk.run("echo", "hello").stdout == b"hello\n"
    finally:
        agent.kill()
        agent.wait()


@pytest.fixture
def behind(stranger: Desk, tmp_path: Path) -> Iterator[tuple[Desk, Sshd]]:
    """A desk whose server, called ``inner``, is to be reached over another, the jump host."""
    with running_sshd(tmp_path / "jump") as jump:
        stranger.configure(
            f"Host jump\n  HostName 127.0.0.1\n  Port {jump.port}\n  IdentityFile {jump.client_key}",
            f"Host inner\n  HostName 127.0.0.1\n  Port {stranger.server.port}\n  ProxyJump jump",
            f"  IdentityFile {stranger.server.client_key}",
        )
        yield stranger, jump


def test_an_unknown_jump_host_is_refused_before_the_device_is(behind: tuple[Desk, Sshd]) -> None:
    desk, jump = behind
    assert jump.fingerprint in refused(desk, TrustError, "inner").message


def test_a_trusted_jump_host_does_not_make_the_device_behind_it_trusted(behind: tuple[Desk, Sshd]) -> None:
    desk, jump = behind
    desk.trust(jump)
    assert desk.server.fingerprint in refused(desk, TrustError, "inner").message


def test_offers_come_from_the_first_host_that_is_not_trusted(behind: tuple[Desk, Sshd]) -> None:
    desk, jump = behind
    offers = []
    while (offer := desk.offer("inner")).refusal is not None:
        offers.append(offer.port)
        trust.accept(offer.host, offer.port, offer.key, desk.pins)
    assert offers == [jump.port, desk.server.port]


def test_a_device_behind_a_jump_host_answers_over_it(behind: tuple[Desk, Sshd]) -> None:
    desk, jump = behind
    desk.trust(jump)
    desk.trust(desk.server)
    link = desk.link("inner")
    asked = link.execute(["sh", "-c", "echo $SSH_CONNECTION $HOME"], b"", DEADLINE_SECONDS).stdout.decode()
    link.close()
    assert str(desk.server.home) in asked
    assert "Accepted publickey" in (jump.folder / "log").read_text(encoding="utf-8")


def test_a_device_that_its_jump_host_cannot_reach_is_a_lost_link(behind: tuple[Desk, Sshd]) -> None:
    desk, jump = behind
    desk.trust(jump)
    address = f"inner:{free_port()}"
    assert "cannot be reached" in refused(desk, LinkLostError, address).message


def test_a_device_is_reached_by_the_command_that_the_configuration_names(desk: Desk, tmp_path: Path) -> None:
    with running_sshd(tmp_path / "jump") as jump:
        desk.configure(
            f"Host inner\n  HostName 127.0.0.1\n  Port {desk.server.port}",
            f"  ProxyCommand ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
            f"-i {jump.client_key} -p {jump.port} -W %h:%p 127.0.0.1",
        )
        link = desk.link("inner")
        answer = link.execute(["echo", "hello"], b"", DEADLINE_SECONDS)
        link.close()
    assert answer.stdout == b"hello\n"
    assert wait_until(lambda: not running(str(jump.client_key)))


def test_hosts_that_jump_over_each_other_are_an_error(desk: Desk) -> None:
    desk.configure("Host *\n  ProxyJump other")
    error = refused(desk, DeviceError, "pi4")
    assert error.hint is not None and "leads back to itself" in error.hint


def test_a_key_that_the_device_does_not_know_is_an_error_with_a_hint(desk: Desk, tmp_path: Path) -> None:
    make_key(tmp_path / "unknown")
    desk.configure(key=tmp_path / "unknown")
    error = refused(desk, DeviceError)
    assert "none of the keys" in error.message and error.hint is not None and "ssh-copy-id" in error.hint
    assert not isinstance(error, LinkLostError)


def test_a_key_with_a_passphrase_is_not_asked_for(desk: Desk, tmp_path: Path) -> None:
    make_key(tmp_path / "locked", passphrase="secret")
    desk.configure(key=tmp_path / "locked")
    error = refused(desk, DeviceError)
    assert error.hint is not None and "ssh-add" in error.hint


def test_a_host_that_is_down_is_a_lost_link(desk: Desk) -> None:
    assert "cannot be reached" in refused(desk, LinkLostError, desk.address(free_port())).message


@pytest.mark.parametrize(
    ("number", "expected", "told"),
    [
        (socket.EAI_NONAME, DeviceError, "no host of that name"),
        (socket.EAI_AGAIN, LinkLostError, "cannot be reached"),
    ],
)
def test_a_name_that_is_unknown_differs_from_a_network_that_is_down(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[DeviceError], told: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "not resolved")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = refused(desk, DeviceError, "kitchen.local")
    assert type(error) is expected and told in error.message


def test_a_host_that_accepts_and_says_nothing_is_given_up(
    desk: Desk, shaky: SshLink, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 1.0)
    proxy.freeze()
    with pytest.raises(LinkLostError, match="no connection within 1 seconds"):
        shaky.execute(["true"], b"", DEADLINE_SECONDS)


def test_a_cut_link_is_an_error_and_the_next_command_connects_again(shaky: SshLink, proxy: Proxy) -> None:
    shaky.execute(["true"], b"", DEADLINE_SECONDS)
    threading.Timer(0.3, proxy.cut).start()
    with pytest.raises(LinkLostError):
        shaky.execute(["sleep", "30"], b"", DEADLINE_SECONDS)
    assert shaky.execute(["echo", "back"], b"", DEADLINE_SECONDS).stdout == b"back\n"


def test_a_link_cut_while_nobody_used_it_is_opened_again_unnoticed(shaky: SshLink, proxy: Proxy) -> None:
    shaky.execute(["true"], b"", DEADLINE_SECONDS)
    proxy.cut()
    time.sleep(0.3)
    assert shaky.execute(["echo", "back"], b"", DEADLINE_SECONDS).stdout == b"back\n"


def test_a_link_that_falls_silent_is_noticed_long_before_the_deadline(shaky: SshLink, proxy: Proxy) -> None:
    shaky.execute(["true"], b"", DEADLINE_SECONDS)
    started = time.monotonic()
    threading.Timer(0.3, proxy.freeze).start()
    with pytest.raises(LinkLostError):
        shaky.execute(["sleep", "30"], b"", 30.0)
    assert time.monotonic() - started < 10
    proxy.thaw()
    assert shaky.execute(["echo", "back"], b"", DEADLINE_SECONDS).stdout == b"back\n"


def test_a_silence_shorter_than_that_is_waited_out(shaky: SshLink, proxy: Proxy) -> None:
    shaky.execute(["true"], b"", DEADLINE_SECONDS)
    proxy.freeze()
    threading.Timer(1.5, proxy.thaw).start()
    assert shaky.execute(["echo", "late"], b"", DEADLINE_SECONDS).stdout == b"late\n"


def test_a_command_that_takes_too_long_is_given_up_and_ended_on_the_device(link: SshLink) -> None:
    unusual = f"3141.{os.getpid()}"
    link.execute(["true"], b"", DEADLINE_SECONDS)
    started = time.monotonic()
    with pytest.raises(LinkLostError, match=r"no answer within 0\.5 seconds"):
        link.execute(["sleep", unusual], b"", 0.5)
    assert time.monotonic() - started < 2
    assert wait_until(lambda: not running(unusual))


def test_after_a_deadline_the_next_command_connects_anew(link: SshLink) -> None:
    ask = ["sh", "-c", "echo $SSH_CONNECTION"]
    before = link.execute(ask, b"", DEADLINE_SECONDS)
    with pytest.raises(LinkLostError):
        link.execute(["sleep", "2"], b"", 0.2)
    assert link.execute(ask, b"", DEADLINE_SECONDS) != before


def test_output_is_whole_or_the_link_is_lost_wherever_it_is_cut(shaky: SshLink, proxy: Proxy) -> None:
    content = os.urandom(300_000)
    digest = hashlib.sha256(content).digest()
    shaky.execute(["true"], b"", DEADLINE_SECONDS)
    outcomes = set()
    for size_bytes in range(1, 620_000, 31_000):
        proxy.cut_after(size_bytes)
        try:
            answer = shaky.execute(["cat"], content, DEADLINE_SECONDS).stdout
            assert hashlib.sha256(answer).digest() == digest
            outcomes.add("whole")
        except LinkLostError:
            outcomes.add("lost")
        proxy.thaw()
    assert "lost" in outcomes


class TestSshDevice(DeviceConformance):
    @pytest.fixture
    def connect(self, desk: Desk) -> Iterator[Connect]:
        opened: list[PosixDevice] = []

        def connect() -> PosixDevice:
            opened.append(desk.device())
            return opened[-1]

        yield connect
        for device in opened:
            device.close()


def test_of_a_lost_link_an_exit_code_without_the_end_of_output_is_no_answer() -> None:
    command = ssh._Command()
    command.data_received(b"half", None)
    command.exit_status_received(0)
    assert command.completed(link_lost=True) is None
    command.eof_received()
    assert command.completed(link_lost=True) == Completed(0, b"half", b"")


def test_an_answer_that_is_there_before_it_is_read_counts(link: SshLink, monkeypatch: pytest.MonkeyPatch) -> None:
    send = SSHChannel._send_request

    def send_and_dawdle(*arguments: Any, **options: Any) -> None:
        send(*arguments, **options)
        time.sleep(0.3)

    monkeypatch.setattr(SSHChannel, "_send_request", send_and_dawdle)
    assert link.execute(["echo", "quick"], b"unread", DEADLINE_SECONDS) == Completed(0, b"quick\n", b"")


def test_thirty_megabytes_are_pushed_and_fetched(desk: Desk) -> None:
    content = os.urandom(30 * 2**20)
    device = desk.device()
    device.push("big.onnx", content)
    fetched = device.fetch("big.onnx")
    device.close()
    assert hashlib.sha256(fetched).digest() == hashlib.sha256(content).digest()


STEPS = ("push", "start", "poll", "fetch", "cancel")


@pytest.mark.parametrize("size_bytes", [1, 400, 1500, 4000, 50_000])
def test_a_job_survives_a_link_that_is_cut_in_each_step(desk: Desk, proxy: Proxy, size_bytes: int) -> None:
    device = desk.device(proxy.port)

    losses = survive_cuts(device, lambda step: proxy.cut_after(size_bytes), alive, os.urandom(100_000))

    device.close()
    assert losses >= 1


@pytest.mark.parametrize("step", STEPS)
def test_a_job_survives_a_link_that_falls_silent_in_a_step(
    desk: Desk, proxy: Proxy, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_KEEPALIVE_SECONDS", 0.3)
    device = desk.device(proxy.port)

    def fall_silent(now: str) -> None:
        if now == step:
            proxy.freeze()
            threading.Timer(2.0, proxy.thaw).start()

    losses = survive_cuts(device, fall_silent, alive, os.urandom(100_000))

    device.close()
    assert losses >= (0 if step == "push" else 1)


def test_a_job_that_outlived_its_link_is_picked_up_and_cancelled_without_a_trace(desk: Desk, proxy: Proxy) -> None:
    unusual = f"2718.{os.getpid()}"
    device = desk.device(proxy.port)
    device.start("long", Job(("sh", "-c", f"echo begun; sleep {unusual}"), {}, {}))
    proxy.cut()
    again = desk.device()
    assert wait_until(lambda: again.poll("long").output == b"begun\n")
    assert again.jobs() == ("long",) and running(unusual)
    again.cancel("long")
    assert again.jobs() == () and not running(unusual)
    device.close()
    again.close()
