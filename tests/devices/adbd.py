"""The device's side of adb over TCP, for tests: what adbd does on a phone, with faults on demand.

It speaks the transport (CNXN, AUTH, OPEN, OKAY, WRTE, CLSE) and the services shell, shell protocol 2, exec and sync.
How a command is started, and where files lie, is told by a `phone.Phone`.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from tests.devices.phone import Phone

Result = TypeVar("Result")

VERSION = 0x01000001
CHECKSUM_FREE_VERSION = 0x01000001
LARGEST_PAYLOAD_BYTES = 1 << 20
PIECE_BYTES = 1 << 16
FEATURES = "shell_v2,cmd,fixed_push_mkdir"

AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3
SHELL_STDIN, SHELL_STDOUT, SHELL_STDERR, SHELL_EXIT, SHELL_CLOSE_STDIN = range(5)
MESSAGE_HEADER = struct.Struct("<4s5I")
SHELL_HEADER = struct.Struct("<BI")
SYNC_HEADER = struct.Struct("<4sI")

# DER of DigestInfo for SHA-1; adb signs the 20 bytes of the token as if they were the digest.
DIGEST_INFO = bytes.fromhex("3021300906052b0e03021a05000414")

Keys = Literal["none needed", "accepted when offered", "refused"]


@dataclass(frozen=True)
class Message:
    """One message of the transport: a command with two numbers and a payload."""

    command: bytes
    first: int
    second: int
    payload: bytes = b""


@dataclass(frozen=True)
class PublicKey:
    """An RSA key that a host offered."""

    modulus: int
    exponent: int

    @staticmethod
    def parse(offer: bytes) -> PublicKey:
        """From base64 of Android's layout: words, n0inv, modulus, R squared, exponent; a name may follow."""
        raw = base64.b64decode(offer.rstrip(b"\0").split(b" ")[0])
        size_bytes = 4 * struct.unpack_from("<I", raw)[0]
        (exponent,) = struct.unpack_from("<I", raw, 8 + 2 * size_bytes)
        return PublicKey(int.from_bytes(raw[8 : 8 + size_bytes], "little"), exponent)

    def has_signed(self, token: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is PKCS #1 v1.5 of ``token`` by this key."""
        size_bytes = (self.modulus.bit_length() + 7) // 8
        opened = pow(int.from_bytes(signature, "big"), self.exponent, self.modulus).to_bytes(size_bytes, "big")
        ending = DIGEST_INFO + token
        return opened == b"\0\1" + b"\xff" * (size_bytes - len(ending) - 3) + b"\0" + ending


class Faults:
    """What goes wrong with the link: counted are the bytes of all messages in both directions."""

    def __init__(self) -> None:
        self.bytes_passed = 0
        self.boundaries: list[int] = []
        """Values of ``bytes_passed`` at which a message ended."""
        self.cut_at_bytes: int | None = None

    def allowance(self, size_bytes: int) -> int:
        """How many of the next ``size_bytes`` still pass before the cut."""
        if self.cut_at_bytes is None:
            return size_bytes
        return max(0, min(size_bytes, self.cut_at_bytes - self.bytes_passed))

    def message_passed(self, size_bytes: int) -> None:
        """Count a message that went through whole."""
        self.bytes_passed += size_bytes
        self.boundaries.append(self.bytes_passed)

    def cut_happened(self) -> None:
        """A cut is once: the link that is made after it holds."""
        self.cut_at_bytes = None


class Wire:
    """Messages over one TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults) -> None:
        self._reader = reader
        self._writer = writer
        self._faults = faults
        self._turn = asyncio.Lock()
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.has_checksums = True
        self.payload_limit_bytes = 4096

    async def read(self) -> Message:
        """The next message. Raises ConnectionError at the end of the connection."""
        try:
            header = await self._reader.readexactly(MESSAGE_HEADER.size)
            command, first, second, length, _, magic = MESSAGE_HEADER.unpack(header)
            if magic != int.from_bytes(command, "little") ^ 0xFFFFFFFF or length > LARGEST_PAYLOAD_BYTES:
                raise ConnectionError("no message of adb")
            payload = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise ConnectionError from error
        await self.thawed.wait()
        self._pass(MESSAGE_HEADER.size + length)
        return Message(command, first, second, payload)

    async def write(self, message: Message) -> None:
        """Send a message whole, or a part of it and the cut that is due."""
        number = int.from_bytes(message.command, "little")
        checksum = sum(message.payload) & 0xFFFFFFFF if self.has_checksums else 0
        length = len(message.payload)
        header = MESSAGE_HEADER.pack(
            message.command, message.first, message.second, length, checksum, number ^ 0xFFFFFFFF
        )
        data = header + message.payload
        async with self._turn:
            await self.thawed.wait()
            self._writer.write(data[: self._faults.allowance(len(data))])
            with suppress(ConnectionError):
                await self._writer.drain()
            self._pass(len(data))

    def _pass(self, size_bytes: int) -> None:
        if self._faults.allowance(size_bytes) < size_bytes:
            self._faults.cut_happened()
            self.abort()
            raise ConnectionError("the link was cut on purpose")
        self._faults.message_passed(size_bytes)

    def abort(self) -> None:
        """Cut the connection as if a cable was pulled."""
        self._writer.transport.abort()


class Stream:
    """One service that the host opened: bytes in both directions, one unanswered WRTE at a time."""

    def __init__(self, wire: Wire, local: int, remote: int) -> None:
        self._wire = wire
        self.local = local
        self.remote = remote
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self._rest = b""
        self._acknowledged = asyncio.Event()
        self.is_closed = False

    def deliver(self, payload: bytes) -> None:
        """What the host wrote."""
        self._arrived.put_nowait(payload)

    def acknowledge(self) -> None:
        """The host took what was written last."""
        self._acknowledged.set()

    def hang_up(self) -> None:
        """The host, or the link, is gone: whoever reads or writes is told so."""
        self.is_closed = True
        self._acknowledged.set()
        self._arrived.put_nowait(b"")

    async def read_some(self) -> bytes:
        """What came, at least one byte. Raises ConnectionError when the host hung up."""
        if not self._rest:
            self._rest = await self._arrived.get()
        if not self._rest:
            raise ConnectionError("the host hung up")
        piece, self._rest = self._rest, b""
        return piece

    async def read_exactly(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        pieces = []
        while count > 0:
            piece = await self.read_some()
            pieces.append(piece[:count])
            self._rest = piece[count:]
            count -= len(pieces[-1])
        return b"".join(pieces)

    async def write(self, data: bytes) -> None:
        """Send ``data`` in pieces that the host can take."""
        limit = self._wire.payload_limit_bytes
        for start in range(0, len(data), limit):
            self._acknowledged.clear()
            if self.is_closed:
                raise ConnectionError("the host hung up")
            await self._wire.write(Message(b"WRTE", self.local, self.remote, data[start : start + limit]))
            await self._acknowledged.wait()

    async def close(self) -> None:
        """Say that nothing more comes."""
        if not self.is_closed:
            self.is_closed = True
            await self._wire.write(Message(b"CLSE", self.local, self.remote))


class Connection:
    """One host: who it is, and the streams that it opened."""

    def __init__(self, wire: Wire, adbd: Adbd) -> None:
        self.wire = wire
        self._adbd = adbd
        self._token = b""
        self._is_trusted = adbd.keys == "none needed"
        self._streams: dict[int, Stream] = {}
        self._stream_count = 0
        self._services: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer messages until the link is gone; the services then see their streams hung up."""
        try:
            while True:
                await self._answer(await self.wire.read())
        except ConnectionError:
            pass
        finally:
            self.wire.abort()
            for stream in self._streams.values():
                stream.hang_up()
            await asyncio.gather(*self._services, return_exceptions=True)

    async def _answer(self, message: Message) -> None:
        if message.command == b"CNXN":
            self.wire.has_checksums = message.first < CHECKSUM_FREE_VERSION
            self.wire.payload_limit_bytes = min(message.second, LARGEST_PAYLOAD_BYTES)
            await self._greet()
        elif message.command == b"AUTH":
            await self._authenticate(message)
        elif self._is_trusted:
            await self._answer_trusted(message)

    async def _greet(self) -> None:
        if self._is_trusted:
            banner = f"device::ro.product.name=standin;ro.product.model=Stand-in;features={FEATURES}"
            await self.wire.write(Message(b"CNXN", VERSION, LARGEST_PAYLOAD_BYTES, banner.encode()))
        else:
            self._token = os.urandom(20)
            await self.wire.write(Message(b"AUTH", AUTH_TOKEN, 0, self._token))

    async def _authenticate(self, message: Message) -> None:
        if message.first == AUTH_SIGNATURE:
            self._is_trusted = any(key.has_signed(self._token, message.payload) for key in self._adbd.trusted_keys)
        elif message.first == AUTH_PUBLIC_KEY and self._adbd.keys == "accepted when offered":
            self._adbd.trusted_keys.append(PublicKey.parse(message.payload))
            self._is_trusted = True
        elif message.first == AUTH_PUBLIC_KEY:
            return  # The question stays on the screen, and nobody answers it.
        await self._greet()

    async def _answer_trusted(self, message: Message) -> None:
        if message.command == b"OPEN":
            await self._open(message.first, message.payload.rstrip(b"\0"))
            return
        stream = self._streams.get(message.second)
        if stream is None:
            return
        if message.command == b"WRTE":
            stream.deliver(message.payload)
            await self.wire.write(Message(b"OKAY", stream.local, stream.remote))
        elif message.command == b"OKAY":
            stream.acknowledge()
        elif message.command == b"CLSE":
            del self._streams[stream.local]
            stream.hang_up()

    async def _open(self, remote: int, request: bytes) -> None:
        service = find_service(request)
        if service is None:
            await self.wire.write(Message(b"CLSE", 0, remote))
            return
        self._stream_count += 1
        stream = Stream(self.wire, self._stream_count, remote)
        self._streams[stream.local] = stream
        await self.wire.write(Message(b"OKAY", stream.local, remote))
        task = asyncio.create_task(self._run(service, stream, request.partition(b":")[2]))
        self._services.add(task)
        task.add_done_callback(self._services.discard)

    async def _run(self, service: Service, stream: Stream, argument: bytes) -> None:
        with suppress(ConnectionError):
            await service(stream, argument, self._adbd.phone)
            await stream.close()
        self._streams.pop(stream.local, None)


Service = Callable[[Stream, bytes, Phone], Awaitable[None]]


def find_service(request: bytes) -> Service | None:
    """The service that a host asks for in ``NAME,OPTION,…:ARGUMENT``."""
    name, *options = request.partition(b":")[0].split(b",")
    if name == b"shell" and b"v2" in options:
        return shell_protocol_2
    if name in (b"shell", b"exec"):
        return plain_shell
    return sync if name == b"sync" else None


async def plain_shell(stream: Stream, command: bytes, phone: Phone) -> None:
    """Run ``command``: what it writes to stdout and stderr comes mixed, and its exit code is lost."""
    process = await start(phone, command, stderr=asyncio.subprocess.STDOUT)
    assert process.stdin is not None and process.stdout is not None

    async def feed(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(await stream.read_some())
            await writer.drain()

    async def drain(reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await stream.write(piece)

    await supervise(process, feed(process.stdin), drain(process.stdout))


async def shell_protocol_2(stream: Stream, command: bytes, phone: Phone) -> None:
    """Run ``command``: packets tell stdin, stdout, stderr and the exit code apart."""
    process = await start(phone, command, stderr=asyncio.subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None

    async def feed(writer: asyncio.StreamWriter) -> None:
        while True:
            kind, length = SHELL_HEADER.unpack(await stream.read_exactly(SHELL_HEADER.size))
            payload = await stream.read_exactly(length)
            with suppress(BrokenPipeError, ConnectionResetError):
                if kind == SHELL_STDIN:
                    writer.write(payload)
                    await writer.drain()
                elif kind == SHELL_CLOSE_STDIN:
                    writer.close()

    async def drain(reader: asyncio.StreamReader, kind: int) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await stream.write(SHELL_HEADER.pack(kind, len(piece)) + piece)

    outputs = drain(process.stdout, SHELL_STDOUT), drain(process.stderr, SHELL_STDERR)
    code = await supervise(process, feed(process.stdin), *outputs)
    await stream.write(SHELL_HEADER.pack(SHELL_EXIT, 1) + bytes([code if code >= 0 else 128 - code]))


async def start(phone: Phone, command: bytes, stderr: int) -> asyncio.subprocess.Process:
    """The shell of the phone with ``command``, in a session of its own."""
    return await asyncio.create_subprocess_exec(
        *phone.argv(command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=phone.environment,
        cwd=phone.root,
        start_new_session=True,
    )


async def supervise(
    process: asyncio.subprocess.Process, feed: Coroutine[Any, Any, None], *drains: Coroutine[Any, Any, None]
) -> int:
    """Wait until all output is read, as adbd does, and give the exit code; a host that hangs up ends the command."""
    feeding = asyncio.ensure_future(feed)
    draining = asyncio.gather(*drains)
    try:
        done, _ = await asyncio.wait((feeding, draining), return_when=asyncio.FIRST_COMPLETED)
        if draining not in done:
            feeding.result()
        await draining
        return await process.wait()
    except ConnectionError:
        # As adbd, which tells only the shell itself; what ignores that is ended here all the same.
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGHUP)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 1)
        raise
    finally:
        for task in (feeding, draining):
            task.cancel()
        await asyncio.gather(feeding, draining, return_exceptions=True)
        process._transport.close()  # type: ignore[attr-defined]


async def sync(stream: Stream, argument: bytes, phone: Phone) -> None:
    """Files: STAT, SEND and RECV of the first version of the protocol, which every host still speaks."""
    answers = {b"STAT": sync_stat, b"RECV": sync_receive, b"SEND": sync_send}
    while True:
        kind, length = SYNC_HEADER.unpack(await stream.read_exactly(SYNC_HEADER.size))
        if kind not in answers:
            return
        target = await stream.read_exactly(length)
        try:
            await answers[kind](stream, target, phone)
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            text = (error.strerror or "failed").encode()
            await stream.write(SYNC_HEADER.pack(b"FAIL", len(text)) + text)


async def sync_stat(stream: Stream, target: bytes, phone: Phone) -> None:
    """Mode, size and time of a file; zeros if there is none."""
    try:
        found = phone.path(target).lstat()
        numbers = found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)
    except OSError:
        numbers = 0, 0, 0
    await stream.write(b"STAT" + struct.pack("<3I", *numbers))


async def sync_receive(stream: Stream, target: bytes, phone: Phone) -> None:
    """The content of a file."""
    content = phone.path(target).read_bytes()
    for start_byte in range(0, len(content), PIECE_BYTES):
        piece = content[start_byte : start_byte + PIECE_BYTES]
        await stream.write(SYNC_HEADER.pack(b"DATA", len(piece)) + piece)
    await stream.write(SYNC_HEADER.pack(b"DONE", 0))


async def sync_send(stream: Stream, target: bytes, phone: Phone) -> None:
    """Write a file; ``target`` is ``PATH,MODE``."""
    path, _, mode = target.rpartition(b",")
    content = bytearray()
    while True:
        kind, number = SYNC_HEADER.unpack(await stream.read_exactly(SYNC_HEADER.size))
        if kind == b"DONE":
            break
        content += await stream.read_exactly(number)
    write_as_shell_user(phone.path(path), bytes(content), int(mode) & 0o777, phone)
    await stream.write(SYNC_HEADER.pack(b"OKAY", 0))


def write_as_shell_user(path: Path, content: bytes, mode: int, phone: Phone) -> None:
    """Write a file that belongs to the user who runs the commands."""
    path.write_bytes(content)
    path.chmod(mode)
    phone.give_to_shell_user(path)


class Adbd:
    """A device that listens on a free port of 127.0.0.1, in a thread; ``with Adbd(phone) as adbd`` ends it.

    ``trusted_keys`` and ``phone`` may be handed to the next one: the same device after a restart.
    """

    def __init__(self, phone: Phone, keys: Keys = "accepted when offered", port: int = 0) -> None:
        self.phone = phone
        self.keys = keys
        self.trusted_keys: list[PublicKey] = []
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="adbd", daemon=True)
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._faults = Faults()
        self._is_new_link_frozen = False
        self.links_made = 0

    def __enter__(self) -> Adbd:
        self._thread.start()
        self._server = self._call(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def address(self) -> str:
        """What a host connects to."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Cut all links now; new ones are welcome."""
        self._call(self._abort_all())

    def cut_after(self, size_bytes: int | None) -> None:
        """Cut the link once, when ``size_bytes`` more have passed in both directions together; None: do not."""

        async def plan() -> None:
            self._faults.cut_at_bytes = None if size_bytes is None else self._faults.bytes_passed + size_bytes

        self._call(plan())

    def freeze(self) -> None:
        """Answer nothing and send nothing, without closing a link: a device out of reach."""
        self._call(self._freeze(is_new_link_frozen=True))

    def lose_links(self) -> None:
        """Freeze the links of now for ever, but not new ones: a device that came back by another way."""
        self._call(self._freeze(is_new_link_frozen=False))

    def thaw(self) -> None:
        """Go on where `freeze` stopped."""
        self._call(self._thaw())

    def steps(self, action: Callable[[], object]) -> list[int]:
        """Bytes that had passed since the begin of ``action`` at the end of each message that it caused."""
        before = self._faults.bytes_passed
        known = len(self._faults.boundaries)
        action()
        return [boundary - before for boundary in self._faults.boundaries[known:]]

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._welcome, "127.0.0.1", self.port)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.links_made += 1
        connection = Connection(Wire(reader, writer, self._faults), self)
        if self._is_new_link_frozen:
            connection.wire.thawed.clear()
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        try:
            await connection.serve()
        finally:
            del self._connections[connection]

    async def _freeze(self, is_new_link_frozen: bool) -> None:
        self._is_new_link_frozen = is_new_link_frozen
        for connection in self._connections:
            connection.wire.thawed.clear()

    async def _thaw(self) -> None:
        self._is_new_link_frozen = False
        for connection in self._connections:
            connection.wire.thawed.set()

    async def _abort_all(self) -> None:
        tasks = list(self._connections.values())
        for connection in self._connections:
            connection.wire.thawed.set()
            connection.wire.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def _end(self) -> None:
        self._server.close()
        await self._abort_all()
