"""The way to a device over SSH: connecting as the user's ``ssh`` would, and running commands with their bytes.

What a device's files and jobs are is ``posix``'s affair, and which host keys are trusted is that of ``trust``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
import shlex
import signal as signals
import socket
import threading
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from edgekit.devices._base import Completed, Link
from edgekit.devices.posix import DEFAULT_FOLDER, PosixDevice
from edgekit.devices.trust import DEFAULT_PORT, PINS, HostKey, Known, KnownKey, known_name, look_up, refusal
from edgekit.errors import DeviceError, EdgekitError, LinkLostError, MissingExtraError, TrustError, UsageError

try:
    import asyncssh
    from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs
except ModuleNotFoundError as _error:
    if _error.name != "asyncssh":
        raise
    raise MissingExtraError("asyncssh", "devices") from None

CONNECT_SECONDS = 10.0
"""Longest that connecting may take, over all hosts on the way; within the deadline of the call that needs it."""
OUTPUT_LIMIT_BYTES = 256 * 2**20
"""Most that one command may write: a device gone mad must not fill the memory of the host."""

# A link that is silent for this long is lost: noticed in 4 seconds, where TCP alone would take minutes.
_KEEPALIVE_SECONDS = 1
_KEEPALIVE_COUNT = 3
_MOST_HOPS = 8
# How much longer than its work's own deadline a thread is waited for.
_STOP_SECONDS = 5.0
_LINE_LIMIT_BYTES = 100_000

# Nothing here can mean something to a Match or ProxyCommand line of the user's own configuration, into which names are
# put, nor to a file of known hosts.
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]{0,63})@)?"
    r"(?:(?:(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]{0,254})|\[(?P<ip>[^\[\]]+)\])(?::(?P<port>[0-9]{1,5}))?|(?P<bare>[^@]+))"
)
_IP_ZONE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_USERS_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Address:
    """Where to connect to: a host's name, IP address or alias of ``~/.ssh/config``; None means: as configured there."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class Offer:
    """The key that a host on the way to a device presents, and by which entry it is trusted already, if any."""

    host: str
    port: int
    key: HostKey
    trusted_by: KnownKey | None
    refusal: TrustError | None
    """Why it is not trusted; None if it is."""


def parse_address(text: str) -> Address:
    """``[user@]host[:port]``, IPv6 addresses in brackets when a port follows. Raises UsageError for anything else."""
    found = _ADDRESS.fullmatch(text)
    if found is not None:
        ip, port = found["ip"] or found["bare"], found["port"]
        if (ip is None or _is_ipv6(ip)) and (port is None or 0 < int(port) < 65536):
            return Address(found["name"] or ip, found["user"], None if port is None else int(port))
    raise UsageError(
        f"{text!r} is no SSH address",
        "write user@host:port, a host's alias in ~/.ssh/config, or user@[fe80::1]:port for IPv6",
    )


def _is_ipv6(text: str) -> bool:
    address, percent, zone = text.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return not percent or _IP_ZONE.fullmatch(zone) is not None


def shell_line(argv: Sequence[str], deadline_seconds: float) -> str:
    """``argv`` as one line for a POSIX shell that runs exactly this program with these arguments.

    As a positional parameter the program's name can be no keyword, assignment or option of the shell. The device ends
    it soon after the deadline, link or no link, if it has a ``timeout`` that takes seconds before the command (old
    busybox has not). Raises UsageError for what cannot be an argument.
    """
    if not argv or not argv[0]:
        raise UsageError("a command needs the name of a program")
    quoted = shlex.join(argv)
    try:
        too_long = len(quoted.encode()) > _LINE_LIMIT_BYTES
    except UnicodeEncodeError:
        raise UsageError(f"the command {argv[0]!r} has an argument that is no text") from None
    if too_long or "\0" in quoted:
        raise UsageError(
            f"the command {argv[0]!r} is longer than {_LINE_LIMIT_BYTES} bytes or holds a NUL byte",
            "pass what is large or binary through stdin",
        )
    end = f"timeout -s KILL {math.ceil(deadline_seconds) + 1}"
    return f'set -- {quoted}; {end} true </dev/null 2>/dev/null && set -- {end} "$@"; "$@"'


class _LoopThread:
    """An event loop in a thread of its own, so that connections are kept alive while nobody waits for them."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="edgekit-ssh", daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._ready.set()
        await self._stopped.wait()

    def call(self, work: Coroutine[Any, Any, _Result], limit_seconds: float) -> _Result:
        """The result of ``work``, which keeps its own deadlines; ``limit_seconds`` is for a loop that hangs."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(limit_seconds)
        except CancelledError:
            raise LinkLostError("the link was closed while it was in use") from None
        except TimeoutError:
            future.cancel()
            raise LinkLostError(f"the link did not answer within {limit_seconds:g} seconds") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_STOP_SECONDS)


class _Command(asyncssh.SSHClientSession[bytes]):
    """What one command writes, and how it ends."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.exit_code: int | None = None
        self.overflowed = False
        self.closed = asyncio.Event()
        self._ended = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        (self.stderr if datatype == asyncssh.EXTENDED_DATA_STDERR else self.stdout).extend(data)
        if len(self.stdout) + len(self.stderr) > OUTPUT_LIMIT_BYTES:
            self.overflowed = True
            self._channel.abort()

    def exit_status_received(self, status: int) -> None:
        self.exit_code = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        # As a shell would tell of it.
        self.exit_code = 128 + int(getattr(signals, f"SIG{signal}", signals.SIGKILL))

    def eof_received(self) -> bool:
        self._ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def completed(self, link_lost: bool) -> Completed | None:
        """The answer, None if a part of it may be missing; ``link_lost`` is whether the whole connection was closed.

        The exit status may arrive before the last output, and asyncssh gives no reason for a channel that was closed by
        a black hole. What is whole is known by the end of output, which asyncssh does not tell of when the end of the
        channel came with it, or by a channel that was closed alone.
        """
        if self.exit_code is None or (link_lost and not self._ended):
            return None
        return Completed(self.exit_code, bytes(self.stdout), bytes(self.stderr))


async def _run(connection: asyncssh.SSHClientConnection, line: str, stdin: bytes) -> Completed:
    # Not what the user's configuration may ask for: a terminal would change bytes, and nothing here is forwarded.
    command = _Command()
    channel, _ = await connection.create_session(
        lambda: command, line, encoding=None, request_pty=False, x11_forwarding=False
    )
    with suppress(BrokenPipeError):  # it may be gone already, and its answer is what counts
        channel.write(stdin)
        channel.write_eof()
    await command.closed.wait()
    if command.overflowed:
        raise DeviceError(f"a command on the device wrote more than {OUTPUT_LIMIT_BYTES} bytes", "fetch it in pieces")
    if (completed := command.completed(connection.is_closed())) is None:
        raise ConnectionError("the link was cut before the command had ended")
    return completed


class _Owner(asyncssh.SSHClient):
    """Checks the key of one host, and remembers what it offered and what is known of it."""

    def __init__(self, pins: Path, users_files: Sequence[Path]) -> None:
        self._files = (pins, users_files)
        self.offered: HostKey | None = None
        self.known: Known | None = None

    def trusted(self, host: str, address: str, port: int | None) -> tuple[list[asyncssh.SSHKey], ...]:
        """Keys, authorities and revoked keys, asked for with the host's name as the configuration made it."""
        self.known = look_up(host, port or DEFAULT_PORT, *self._files)
        groups = (self.known.keys + self.known.accepted, self.known.authorities, self.known.revoked)
        return tuple(_imported(group) for group in groups)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked for keys that are not among the trusted ones: refused always."""
        self.offered = _exported(key)
        return False


def _exported(key: asyncssh.SSHKey) -> HostKey:
    algorithm, text = key.export_public_key("openssh").decode().split()[:2]
    return HostKey(algorithm, text)


def _imported(entries: Iterable[KnownKey]) -> list[asyncssh.SSHKey]:
    keys = []
    for entry in entries:
        # Of a kind that this asyncssh does not know: it cannot be negotiated either.
        with suppress(asyncssh.KeyImportError):
            keys.append(asyncssh.import_public_key(f"{entry.key.algorithm} {entry.key.text}"))
    return keys


@dataclass
class _Route:
    """The connections on the way to the device called ``name``: hosts that are jumped over, and its own as the last.

    ``config`` is the user's configuration of ssh (None: ``~/.ssh/config``), ``pins`` the project's trusted keys.
    """

    name: str
    config: Path | None
    pins: Path
    opened: list[asyncssh.SSHClientConnection] = field(default_factory=list)

    async def connect(
        self, address: Address, over: asyncssh.SSHClientConnection | None = None, depth: int = 0
    ) -> asyncssh.SSHClientConnection:
        """Log in at ``address``, through the connection ``over`` or else the hosts that the configuration says.

        Raises TrustError, LinkLostError where another attempt may succeed, and DeviceError where it will not.
        """
        options = await self._resolved(address)
        for hop in self._hops(options, over, depth):
            over = await self.connect(hop, over, depth + 1)
        owner = _Owner(self.pins, _users_files(options))
        known = self._known(options)
        arguments = self._arguments(address, over) | {
            "client_factory": lambda: owner,
            "known_hosts": owner.trusted,
            "server_host_key_algs": _algorithms(options, known, certificates=bool(known.authorities)),
        }
        try:
            connection = await asyncssh.connect(**arguments)
        except asyncssh.HostKeyNotVerifiable:
            raise refusal(owner.known or known, owner.offered, self.name) from None
        except (OSError, ValueError, asyncssh.Error) as error:
            raise self._failure(options, error) from error
        self.opened.append(connection)
        return connection

    async def offer(self, address: Address, over: asyncssh.SSHClientConnection | None = None, depth: int = 0) -> Offer:
        """The key of the first host on the way that is not trusted, or of the device itself if all are."""
        options = await self._resolved(address)
        for hop in self._hops(options, over, depth):
            found = await self.offer(hop, over, depth + 1)
            if found.refusal is not None:
                return found
            over = await self.connect(hop, over, depth + 1)
        known = self._known(options)
        try:
            key = await asyncssh.get_server_host_key(
                address.host,
                address.port or (),
                tunnel=over or (),
                config=() if self.config is None else [self.config],
                server_host_key_algs=_algorithms(options, known, certificates=False),
            )
        except (OSError, ValueError, asyncssh.Error) as error:
            raise self._failure(options, error) from error
        if key is None:
            raise DeviceError(f"{self.name}: {known.name} presents no host key")
        return _judged(options, known, _exported(key), self.name)

    def close(self) -> None:
        while self.opened:
            self.opened.pop().abort()

    async def _resolved(self, address: Address) -> asyncssh.SSHClientConnectionOptions:
        """What the user's configuration says of ``address``, before anything is connected."""
        try:
            options = await asyncssh.SSHClientConnectionOptions.construct(**self._arguments(address, None))
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"{self.name}: the configuration of ssh for {address} cannot be used: {error}",
                f"see {self.config or '~/.ssh/config'} and the keys that it names; `ssh {address}` must work",
            ) from error
        return cast(asyncssh.SSHClientConnectionOptions, options)

    def _arguments(self, address: Address, over: asyncssh.SSHClientConnection | None) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "host": address.host,
            "keepalive_interval": _KEEPALIVE_SECONDS,
            "keepalive_count_max": _KEEPALIVE_COUNT,
            # Nobody is there to be asked for a password.
            "password_auth": False,
            "kbdint_auth": False,
            "gss_host": None,
            "agent_forwarding": False,
            "x509_trusted_certs": None,
        }
        config = () if self.config is None else [self.config]
        given = {"username": address.user, "port": address.port, "config": config, "tunnel": over}
        return arguments | {key: value for key, value in given.items() if value is not None}

    def _hops(
        self, options: asyncssh.SSHClientConnectionOptions, over: asyncssh.SSHClientConnection | None, depth: int
    ) -> list[Address]:
        if over is not None or not options.tunnel:
            return []
        if depth >= _MOST_HOPS:
            raise DeviceError(
                f"{self.name}: more than {_MOST_HOPS} hosts to jump over",
                "a ProxyJump in the configuration of ssh leads back to itself",
            )
        return [parse_address(hop.strip()) for hop in str(options.tunnel).split(",")]

    def _known(self, options: asyncssh.SSHClientConnectionOptions) -> Known:
        return look_up(options.host_key_alias or options.host, options.port, self.pins, _users_files(options))

    def _failure(self, options: asyncssh.SSHClientConnectionOptions, error: Exception) -> EdgekitError:
        where = f"{self.name}: {known_name(options.host, options.port)}"
        reason = str(error) or type(error).__name__
        match error:
            case asyncssh.PermissionDenied():
                return DeviceError(
                    f"{where} lets {options.username!r} in with none of the keys that were offered",
                    "`ssh-copy-id` brings your key there, `ssh-add` makes one with a passphrase usable; passwords are "
                    "not asked for",
                )
            case socket.gaierror() if error.errno != socket.EAI_AGAIN:  # which a network that is down gives
                return DeviceError(f"{where}: no host of that name is found ({reason})", "check the target's address")
            case asyncssh.ConnectionLost() | asyncssh.ChannelOpenError() | OSError():
                return LinkLostError(f"{where} cannot be reached: {reason}", "is it switched on and in the network?")
        return DeviceError(f"{where} refused the connection: {reason}", "try `ssh` with the same address")


def _users_files(options: asyncssh.SSHClientConnectionOptions) -> list[Path]:
    """Where the user's own known hosts are; ``UserKnownHostsFile none`` means nowhere, not that all are trusted."""
    files = _USERS_FILES if options.known_hosts == [] else options.known_hosts or ()
    return [Path(str(file)).expanduser() for file in cast(Sequence[str], files)]


def _algorithms(
    options: asyncssh.SSHClientConnectionOptions, known: Known, *, certificates: bool
) -> Sequence[str] | tuple[()]:
    """Kinds of host keys to ask for: first those of which a key is known, or another of the host's keys would come.

    The others are asked for as well: a host that has lost its key is then told from one that does not answer.
    """
    if options.config.get("HostKeyAlgorithms"):
        return ()
    wanted = [name for key in _imported(known.keys + known.accepted) for name in key.sig_algorithms]
    signed = get_default_certificate_algs() if certificates else []
    plain = sorted(get_default_public_key_algs(), key=_rank)
    return [name.decode() for name in dict.fromkeys([*signed, *wanted, *plain])]


def _rank(algorithm: bytes) -> int:
    """OpenSSH's order, so that the key that comes is the one that `ssh` shows; asyncssh's own begins with RSA, at which
    a dropbear (2022.83) that has no such key fails."""
    kinds = (b"ssh-ed25519", b"ecdsa-sha2-nistp", b"rsa-sha2-", b"ssh-rsa", b"")
    return next(rank for rank, kind in enumerate(kinds) if algorithm.startswith(kind))


def _judged(options: asyncssh.SSHClientConnectionOptions, known: Known, key: HostKey, name: str) -> Offer:
    trusted_by = known.trusting(key)
    why_not = refusal(known, key, name) if trusted_by is None else None
    return Offer(options.host_key_alias or options.host, options.port, key, trusted_by, why_not)


class _Connection:
    """A route that is opened when it is needed and given up when it is lost. Lives in the loop's thread."""

    def __init__(self, route: _Route, address: Address) -> None:
        self._route = route
        self._address = address
        self._opening = asyncio.Lock()

    async def execute(self, line: str, stdin: bytes, deadline_seconds: float) -> Completed:
        name = self._route.name
        try:
            async with asyncio.timeout(deadline_seconds):
                return await _run(await self._opened(), line, stdin)
        except TimeoutError:
            self._route.close()
            raise LinkLostError(f"{name}: no answer within {deadline_seconds:g} seconds") from None
        except (OSError, asyncssh.Error) as error:
            self._route.close()
            raise LinkLostError(f"{name}: the link was cut: {error}") from error

    async def offer(self) -> Offer:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await self._route.offer(self._address)
        except TimeoutError:
            raise _silent(self._route.name) from None
        finally:
            self._route.close()

    async def close(self) -> None:
        self._route.close()

    async def _opened(self) -> asyncssh.SSHClientConnection:
        async with self._opening:
            if self._route.opened and not any(connection.is_closed() for connection in self._route.opened):
                return self._route.opened[-1]
            self._route.close()
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await self._route.connect(self._address)
            except TimeoutError:
                raise _silent(self._route.name) from None
            except BaseException:
                self._route.close()
                raise


def _silent(name: str) -> LinkLostError:
    return LinkLostError(
        f"{name}: no connection within {CONNECT_SECONDS:g} seconds", "is it switched on and in the network?"
    )


class SshLink(Link):
    """The link to the device called ``name`` at ``address``, opened when it is first used.

    Addresses, users, ports, keys and jump hosts are looked up in ``config`` (None: ``~/.ssh/config``) as ``ssh`` does.
    Keys come from there, from ``~/.ssh`` and from the agent; no password is ever asked for. Host keys must be trusted:
    see ``trust``. The device's login shell must be a POSIX one.
    """

    def __init__(self, name: str, address: str, *, config: Path | None = None, pins: Path = PINS) -> None:
        self._address = parse_address(address)
        self._route = _Route(name, config, pins.absolute())
        self._starting = threading.Lock()
        self._thread: _LoopThread | None = None

    def execute(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        line = shell_line(argv, deadline_seconds)
        with self._starting:
            if self._thread is None:
                self._thread = _LoopThread()
                self._connection = _Connection(self._route, self._address)
        limit_seconds = deadline_seconds + _STOP_SECONDS
        return self._thread.call(self._connection.execute(line, stdin, deadline_seconds), limit_seconds)

    def close(self) -> None:
        with self._starting:
            if self._thread is not None:
                with suppress(LinkLostError):
                    self._thread.call(self._connection.close(), _STOP_SECONDS)
                self._thread.stop()
                self._thread = None


def open_ssh(
    name: str, address: str, folder: str = DEFAULT_FOLDER, *, config: Path | None = None, pins: Path = PINS
) -> PosixDevice:
    """The device at ``address`` that keeps edgekit's files in ``folder``; nothing is connected until it is used.

    Raises UsageError for an address or a folder that cannot be one.
    """
    return PosixDevice(name, SshLink(name, address, config=config, pins=pins), folder)


def offered_key(name: str, address: str, *, config: Path | None = None, pins: Path = PINS) -> Offer:
    """The key that ``address`` presents, without logging in there; where hosts that are jumped over come first and one
    is not trusted, that one's. Store it with ``trust.accept`` and ask again until nothing is refused.

    Raises LinkLostError or DeviceError when it, or a host on the way, cannot be reached or entered.
    """
    connection = _Connection(_Route(name, config, pins.absolute()), parse_address(address))
    thread = _LoopThread()
    try:
        return thread.call(connection.offer(), CONNECT_SECONDS + _STOP_SECONDS)
    finally:
        thread.stop()
