"""Writing files so that a crash leaves the old or the new one, reading no more than is allowed, hashes and locks.

No file format is known here (that is ``codec``), and nothing here decides what is written.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from edgekit.errors import BadInputError, EdgekitError

_HASH_BLOCK_BYTES = 1 << 20


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: a reader, or a crash at any moment, sees the old file or the new one whole.

    Folders above are made. A symbolic link is written through, not replaced. Raises EdgekitError when the file cannot
    be written (permission, disk full).
    """
    destination = Path(os.path.realpath(path))
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _replace(destination, data)
    except OSError as error:
        raise _not_writable(path, error) from error


def check_writable(path: Path) -> None:
    """Raise EdgekitError now if `write_atomic` could not put a file at ``path`` later: before work that takes long."""
    folder = Path(os.path.realpath(path)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(path, error) from error
    if path.is_dir():
        raise EdgekitError(f"{path}: cannot be written: it is a folder", "name a file in it")


def _not_writable(path: Path, error: OSError) -> EdgekitError:
    return EdgekitError(
        f"{path}: cannot be written: {error.strerror or error}", "choose a folder that is writable and has free space"
    )


@contextmanager
def write_gradually(path: Path) -> Iterator[TextIO]:
    """A stream whose UTF-8 text takes the place of ``path`` at the end, when the block is left without an error.

    Until then, and after an error, the old file is as it was, and what was written lies in `unfinished` (``path``).
    What is no regular file (a pipe, /dev/stdout) is written directly. Raises EdgekitError when it cannot be written.
    """
    destination = Path(os.path.realpath(path))
    if destination.exists() and not destination.is_file():
        with destination.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    part = unfinished(path)
    try:
        stream = part.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise _not_writable(path, error) from error
    with stream:
        os.fchmod(stream.fileno(), _mode(destination))
        yield stream
        try:
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(part, destination)
            _sync_folder(destination.parent)
        except OSError as error:
            raise _not_writable(path, error) from error


def unfinished(path: Path) -> Path:
    """Where `write_gradually` keeps what is not finished: beside the file that it will be, that of a link too."""
    destination = path.resolve() if path.is_symlink() else path
    return destination.with_name(f"{destination.name}.part")


def _replace(destination: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name[:64]}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), _mode(destination))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, destination)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(destination.parent)


def _mode(destination: Path) -> int:
    """Permissions of the file that is replaced; those of any new file otherwise (mkstemp would make it private)."""
    try:
        return stat.S_IMODE(destination.stat().st_mode)
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    # The umask can only be read by setting it, which other threads would notice; the kernel tells it without.
    for line in Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else ():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; file systems that cannot do this are left alone."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file in lower-case hexadecimal, read in blocks. Raises BadInputError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """A regular file of at most ``limit_bytes``; pipes and devices are refused, since they may never end.

    Raises BadInputError naming the file and what is allowed.
    """
    data = read_start(path, limit_bytes + 1)
    if len(data) > limit_bytes:
        raise BadInputError(f"{path}: larger than the {limit_bytes} bytes that are allowed")
    return data


def read_start(path: Path, count_bytes: int) -> bytes:
    """The first ``count_bytes`` of a regular file, fewer if it is shorter. Raises BadInputError naming the file."""
    try:
        # Without O_NONBLOCK, opening a named pipe waits for a writer before its type can be looked at.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise BadInputError(f"{path}: must be a regular file")
            return stream.read(count_bytes)
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: no such file", "check the path") from error
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep every other process out that also locks ``path``, for a read, a change and a write of that file.

    The lock is advisory and lies beside the file (a file that is replaced by a rename cannot carry it); it ends with
    the process, however that ends. Raises EdgekitError when the folder is not writable.
    """
    lock_path = path.with_name(f".{path.name}.lock")
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = acquire_lock(lock_path, fcntl.LOCK_EX)
    except OSError as error:
        raise EdgekitError(f"{path}: cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            lock_path.unlink()
        os.close(descriptor)


def acquire_lock(lock_path: Path, operation: int) -> int:
    """Open ``lock_path`` and lock it by ``operation``, as `fcntl.flock` takes it; the lock ends with the descriptor.

    The file may be removed by who holds it. Raises BlockingIOError when ``operation`` does not wait and it is held.
    """
    while True:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, operation)
            # The holder before may have removed the file that this waited for: then the lock is on nothing.
            if _same_file(descriptor, lock_path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
