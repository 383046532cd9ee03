"""The link to an Android device: commands through the adb server of this machine, over USB or the network.

Spoken directly are the server's own requests and the packets of adb's shell protocol 2, which keep stdout, stderr,
stdin and the exit code apart; adbutils brings the adb program. What is run on the device is not decided here.
"""

from __future__ import annotations

import os
import re
import selectors
import shlex
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from edgekit.devices._base import Completed, Link
from edgekit.devices.posix import PosixDevice
from edgekit.errors import DeviceError, LinkLostError, MissingExtraError, UsageError

FOLDER = "/data/local/tmp/edgekit"
"""Where edgekit keeps its files on an Android device: the shell user may write and execute there."""

_SERVER_PORT = 5037
_SERVER_START_SECONDS = 20.0
_SETTLING_SECONDS = 2.0
_PROBE_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_OUTPUT_LIMIT_BYTES = 1 << 28
_PACKET_BYTES = 1 << 16
_REQUEST_LIMIT_BYTES = 0xFFFF
_SHELL = b"shell,v2,raw:"

# https://android.googlesource.com/platform/packages/modules/adb: shell_protocol.h
_HEADER = struct.Struct("<BI")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)

_ADDRESS = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:%()\[\] -]{0,255}", re.ASCII)
_NETWORK_ADDRESS = re.compile(r"(?!usb:).+:[0-9]{1,5}", re.ASCII)

_REFUSALS = (
    ("auth", "does not trust this machine", "unlock it, accept 'Allow USB debugging?' on its screen and try again"),
    ("permissions", "may not be opened by this user", "install the udev rules for Android devices"),
    ("offline", "is offline", "unplug it and plug it in again, or switch its USB debugging off and on"),
    ("connecting", "does not finish connecting", "unlock it and look for a question on its screen"),
    ("not found", "is not known to adb", "check the cable, USB debugging, and the serial in the list of `adb devices`"),
)
"""What the server's refusals hold, what they mean, and what to do."""

_ABSENT = ("not found", "offline", "connecting")
_TRANSIENT = ("auth", "connecting")


class _RefusedError(Exception):
    """The adb server answered FAIL, with this message."""


def open_adb(name: str, address: str, folder: str | None = None) -> PosixDevice:
    """The Android device at ``address``: a serial, ``host:port``, or empty for the only one attached.

    Nothing is connected before the first use. Raises UsageError for an address that cannot be one.
    """
    return PosixDevice(name, AdbLink(address), folder or FOLDER)


class AdbLink(Link):
    """The way to one device through the adb server; each command is a stream of its own, nothing stays open between.

    The server is the one at ANDROID_ADB_SERVER_PORT (5037 if not set). It is started if none answers there, and left
    running: others may use it too.
    """

    def __init__(self, address: str = "") -> None:
        if address and not _ADDRESS.fullmatch(address):
            raise UsageError(
                f"{address!r} is no address of an Android device",
                "give a serial as `adb devices` lists it, or host:port",
            )
        self._serial = address
        self._was_connected = False
        self._is_doubtful = False

    def execute(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        """As `Link.execute`. Also raises DeviceError with a hint while the device is unauthorized, offline, unknown,
        or one of several and no address was given; UsageError for an ``argv`` that adb cannot carry."""
        request, stdin = _shell_request(argv, stdin)
        deadline = time.monotonic() + deadline_seconds
        try:
            with _silence_is_loss(f"device {self._serial}".strip()):
                self._settle(deadline)
                completed = self._exchange(request, stdin, deadline)
        except LinkLostError:
            self._is_doubtful = True
            raise
        self._was_connected, self._is_doubtful = True, False
        return completed

    def close(self) -> None:
        """Nothing is held open; the device stays connected to the server, which others may share."""

    def _settle(self, deadline: float) -> None:
        """See to it that the server knows the device, that the device answers, and that it speaks the protocol."""
        if not self._serial:
            self._serial = _only_serial(deadline)
        is_silent = self._is_doubtful and not self._answers(deadline)
        if self._is_on_network and (is_silent or _states(deadline).get(self._serial) in (None, "offline")):
            with suppress(_RefusedError):
                _ask(f"host:disconnect:{self._serial}", deadline)
            self._connect(deadline)
        if not self._was_connected:
            self._check_protocol(deadline)

    def _answers(self, deadline: float) -> bool:
        """Whether a command still comes through: one that was merely slow must not cost the server's other users their
        connection, and the server connects again by itself."""
        try:
            self._exchange(*_shell_request(["true"], b""), min(deadline, time.monotonic() + _PROBE_SECONDS))
        except (DeviceError, OSError, EOFError):
            return False
        return True

    def _check_protocol(self, deadline: float) -> None:
        self._transport(deadline).close()
        try:
            features = _ask(f"host-serial:{self._serial}:features", deadline)
        except _RefusedError as error:
            raise self._refusal(str(error)) from error
        if "shell_v2" not in features.split(","):
            raise DeviceError(
                f"device {self._serial} does not speak adb's shell protocol 2", "it needs Android 7 or newer"
            )

    def _connect(self, deadline: float) -> None:
        try:
            answer = _ask(f"host:connect:{self._serial}", deadline)
        except _RefusedError as error:
            answer = str(error)
        # A key that is not trusted yet is no failure to connect: the user may be accepting it.
        if answer.startswith(("connected", "already connected", "failed to authenticate")):
            return
        kind = LinkLostError if self._was_connected else DeviceError
        raise kind(
            f"device {self._serial} cannot be reached: {answer}",
            "check the address, and that the device listens: `adb tcpip 5555` over USB switches it on",
        )

    def _exchange(self, request: bytes, stdin: bytes, deadline: float) -> Completed:
        with self._transport(deadline) as connection:
            try:
                _request(connection, request, deadline)
            except _RefusedError as error:
                raise LinkLostError(f"the link to device {self._serial} was cut: {error}") from error
            return _converse(connection, stdin, deadline)

    def _transport(self, deadline: float) -> socket.socket:
        """A connection to the server that speaks with the device from now on."""
        patience = min(deadline, time.monotonic() + _SETTLING_SECONDS)
        while True:
            connection = _dial(deadline)
            try:
                _request(connection, f"host:transport:{self._serial}".encode(), deadline)
                return connection
            except _RefusedError as error:
                connection.close()
                is_transient = any(word in str(error) for word in _TRANSIENT)
                if not is_transient or time.monotonic() > patience:
                    raise self._refusal(str(error)) from error
            except BaseException:
                connection.close()
                raise
            time.sleep(_PAUSE_SECONDS)

    def _refusal(self, message: str) -> DeviceError:
        kind = LinkLostError if self._was_connected and any(word in message for word in _ABSENT) else DeviceError
        for word, meaning, hint in _REFUSALS:
            if word in message:
                return kind(f"device {self._serial} {meaning}", hint)
        return kind(f"device {self._serial}: adb says {message.strip()!r}")

    @property
    def _is_on_network(self) -> bool:
        return _NETWORK_ADDRESS.fullmatch(self._serial) is not None


def _shell_request(argv: Sequence[str], stdin: bytes) -> tuple[bytes, bytes]:
    """What opens the stream, and what is written to it: a command too long for the one goes before the other,
    read byte by byte there, since what follows must be left to it."""
    if not argv or any("\0" in argument for argument in argv):
        raise UsageError("a command must have a name, and no argument may hold a NUL byte")
    line = shlex.join(argv).encode(errors="surrogateescape")
    request = _SHELL + line
    if len(request) <= _REQUEST_LIMIT_BYTES:
        return request, stdin
    return _SHELL + b'eval "$(dd bs=1 count=%d 2>/dev/null)"' % len(line), line + stdin


def _only_serial(deadline: float) -> str:
    states = _states(deadline)
    if len(states) == 1:
        return next(iter(states))
    if not states:
        raise DeviceError(
            "no Android device is attached", "attach one with USB debugging switched on, or give its host:port"
        )
    listed = ", ".join(f"{serial} ({state})" for serial, state in sorted(states.items()))
    raise DeviceError(f"more than one Android device is attached: {listed}", "give the serial of one as its address")


def _states(deadline: float) -> dict[str, str]:
    """Serials that the server knows, and whether each is a ready ``device``, ``offline``, ``unauthorized`` …"""
    lines = _ask("host:devices", deadline).splitlines()
    return dict((serial, state) for serial, tab, state in (line.partition("\t") for line in lines) if tab)


@contextmanager
def _silence_is_loss(who: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise LinkLostError(
            f"{who} did not answer in time", "check that it is attached, awake and reachable"
        ) from error
    except (OSError, EOFError) as error:
        raise LinkLostError(f"the link to {who} was cut: {error}") from error


def _ask(question: str, deadline: float) -> str:
    """What the server answers. Raises _RefusedError for FAIL, OSError or EOFError when it goes away."""
    with _dial(deadline) as connection:
        _request(connection, question.encode(), deadline)
        return _read_text(connection, deadline)


def _request(connection: socket.socket, request: bytes, deadline: float) -> None:
    connection.settimeout(_left_seconds(deadline))
    connection.sendall(b"%04x" % len(request) + request)
    answer = _read_exactly(connection, 4, deadline)
    if answer == b"FAIL":
        raise _RefusedError(_read_text(connection, deadline))
    if answer != b"OKAY":
        raise _no_adb_server(answer)


def _read_text(connection: socket.socket, deadline: float) -> str:
    length = _read_exactly(connection, 4, deadline)
    if not re.fullmatch(rb"[0-9a-fA-F]{4}", length):
        raise _no_adb_server(length)
    return _read_exactly(connection, int(length, 16), deadline).decode(errors="replace")


def _no_adb_server(answer: bytes) -> DeviceError:
    return DeviceError(
        f"what listens at port {_server_port()} is no adb server: it answered {answer!r}",
        "set ANDROID_ADB_SERVER_PORT to the port of one, or to a free port",
    )


def _read_exactly(connection: socket.socket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        connection.settimeout(_left_seconds(deadline))
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError("the adb server closed the connection")
        data += piece
    return data


def _left_seconds(deadline: float) -> float:
    left_seconds = deadline - time.monotonic()
    if left_seconds <= 0:
        raise TimeoutError
    return left_seconds


def _converse(connection: socket.socket, stdin: bytes, deadline: float) -> Completed:
    """Send ``stdin`` and collect what comes, both at once: neither side may wait for the other to have read."""
    outgoing = memoryview(_stdin_packets(stdin))
    incoming = _Incoming()
    connection.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while incoming.exit_code is None:
            ready = selector.select(_left_seconds(deadline))
            if any(events & selectors.EVENT_READ for _, events in ready):
                incoming.feed(_receive(connection))
            if outgoing and any(events & selectors.EVENT_WRITE for _, events in ready):
                outgoing = outgoing[_send(connection, outgoing) :]
                if not outgoing:
                    selector.modify(connection, selectors.EVENT_READ)
    return Completed(incoming.exit_code, bytes(incoming.stdout), bytes(incoming.stderr))


def _stdin_packets(stdin: bytes) -> bytes:
    starts = range(0, len(stdin), _PACKET_BYTES)
    pieces = [stdin[start : start + _PACKET_BYTES] for start in starts]
    packets = [_HEADER.pack(_STDIN, len(piece)) + piece for piece in pieces]
    return b"".join([*packets, _HEADER.pack(_CLOSE_STDIN, 0)])


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 18)
    if not data:
        raise EOFError("the stream ended before the command's exit code came")
    return data


def _send(connection: socket.socket, data: memoryview) -> int:
    try:
        return connection.send(data)
    except (BrokenPipeError, ConnectionResetError):
        # The command ended without reading all of its stdin; its exit code may still be on the way.
        return len(data)


class _Incoming:
    """The device's packets, put together again from pieces of any size."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.exit_code: int | None = None
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        self._rest += data
        start = 0
        while len(self._rest) - start >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._rest, start)
            end = start + _HEADER.size + length
            if len(self._rest) < end:
                break
            self._take(kind, self._rest[start + _HEADER.size : end])
            start = end
        del self._rest[:start]
        if len(self.stdout) + len(self.stderr) + len(self._rest) > _OUTPUT_LIMIT_BYTES:
            raise DeviceError(f"a command wrote more than {_OUTPUT_LIMIT_BYTES} bytes")

    def _take(self, kind: int, payload: bytearray) -> None:
        if kind == _STDOUT:
            self.stdout += payload
        elif kind == _STDERR:
            self.stderr += payload
        elif kind == _EXIT and payload:
            self.exit_code = payload[0]


def _dial(deadline: float) -> socket.socket:
    """A connection to the adb server, which is started if none answers."""
    port = _server_port()
    try:
        return socket.create_connection(("127.0.0.1", port), _left_seconds(deadline))
    except ConnectionRefusedError:
        _start_server(port, min(_SERVER_START_SECONDS, _left_seconds(deadline)))
    return socket.create_connection(("127.0.0.1", port), _left_seconds(deadline))


def _server_port() -> int:
    text = os.environ.get("ANDROID_ADB_SERVER_PORT", str(_SERVER_PORT))
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise UsageError(f"ANDROID_ADB_SERVER_PORT is {text!r}", "set it to a number from 1 to 65535, or unset it")
    return int(text)


def _start_server(port: int, timeout_seconds: float) -> None:
    try:
        import adbutils
    except ImportError as error:
        raise MissingExtraError("adbutils", "devices") from error
    # The server that stays behind may hold its starter's output open: a pipe would then never end.
    with tempfile.TemporaryFile() as output:
        try:
            argv = [adbutils.adb_path(), "-P", str(port), "start-server"]
            code = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=timeout_seconds, check=False
            ).returncode
        except (OSError, subprocess.SubprocessError, adbutils.AdbError) as error:
            raise DeviceError(f"the adb server cannot be started: {error}") from error
        output.seek(0)
        if code != 0:
            text = output.read().decode(errors="replace").strip()
            raise DeviceError(f"the adb server cannot be started at port {port}: {text}")
