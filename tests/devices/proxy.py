"""A link that can be cut and frozen: a TCP proxy on 127.0.0.1, in a thread of its own.

Which protocol passes through it is nothing that it knows.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes bytes between whoever connects to ``port`` and 127.0.0.1:``target_port``."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.passed_bytes = 0
        """Bytes passed so far, of both directions together."""
        self._left_bytes: int | None = None
        self.frozen = False
        self._ends: set[_End] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait()

    def cut(self) -> None:
        """Reset all connections; new ones are let through."""
        self._do(self._cut)

    def cut_after(self, size_bytes: int) -> None:
        """Reset all connections when ``size_bytes`` more have passed."""
        self._do(lambda: setattr(self, "_left_bytes", size_bytes))

    def freeze(self) -> None:
        """Be a black hole: nothing passes and nothing is closed, for new connections as well."""
        self._do(lambda: self._set_frozen(True))

    def thaw(self) -> None:
        """Pass what was held back, and cut nothing any more."""
        self._do(self._thaw)

    def close(self) -> None:
        self._do(self._stop.set)
        self._thread.join()

    def _thaw(self) -> None:
        self._left_bytes = None
        self._set_frozen(False)

    def _do(self, work: Callable[[], object]) -> None:
        done = threading.Event()

        def work_and_tell() -> None:
            work()
            done.set()

        self._loop.call_soon_threadsafe(work_and_tell)
        done.wait()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await self._loop.create_server(lambda: _Near(self), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        self._cut()

    def _cut(self) -> None:
        self._left_bytes = None
        for end in list(self._ends):
            end.reset()

    def _set_frozen(self, frozen: bool) -> None:
        self.frozen = frozen
        for end in list(self._ends):
            end.hold(frozen)

    def pass_on(self, data: bytes, to: _End) -> None:
        if self._left_bytes is not None:
            data = data[: self._left_bytes]
            self._left_bytes -= len(data)
        self.passed_bytes += len(data)
        to.transport.write(data)
        if self._left_bytes == 0:
            self._cut()

    def add(self, end: _End) -> None:
        self._ends.add(end)
        end.hold(self.frozen)

    def remove(self, end: _End) -> None:
        self._ends.discard(end)


class _End(asyncio.Protocol):
    """One of the two sockets of a connection; ``peer`` is the other."""

    def __init__(self, proxy: Proxy, peer: _End | None = None) -> None:
        self.proxy = proxy
        self.peer = peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.proxy.add(self)

    def data_received(self, data: bytes) -> None:
        assert self.peer is not None
        self.proxy.pass_on(data, self.peer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.proxy.remove(self)
        if self.peer is not None:
            self.peer.transport.close()

    def hold(self, frozen: bool) -> None:
        if not self.transport.is_closing():
            (self.transport.pause_reading if frozen else self.transport.resume_reading)()

    def reset(self) -> None:
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class _Near(_End):
    """The socket of whoever connected: it is read once the other side stands."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._reach_target())

    async def _reach_target(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, self.peer = await loop.create_connection(
                lambda: _End(self.proxy, self), "127.0.0.1", self.proxy.target_port
            )
        except OSError:
            self.reset()
            return
        self.hold(self.proxy.frozen)

    def hold(self, frozen: bool) -> None:
        super().hold(frozen or self.peer is None)


@contextmanager
def proxy_to(target_port: int) -> Iterator[Proxy]:
    proxy = Proxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()
