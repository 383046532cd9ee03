"""Finding the worker for devices without Python, the C program of ``native/worker``, or building it for such a device.

What it does with a job is described in docs/jobs.md; nothing is sent to a device from here.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import DeviceError
from edgekit.files import write_atomic

System = Literal["linux", "android"]
Architecture = Literal["x86_64", "aarch64"]

BUILD_SECONDS = 120.0
"""Longest that one call of a compiler may take."""
ANDROID_API_LEVEL = 24

_FLAGS = ("-std=c11", "-O2")
_POSIX = "-D_POSIX_C_SOURCE=200809L"
# Phones with pages of 16 KiB refuse programs whose segments are aligned to less.
_ANDROID_LINK = ("-pie", "-Wl,-z,max-page-size=16384", "-Wl,-z,relro,-z,now")
_FREESTANDING = ("-ffreestanding", "-fPIE", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-nostdinc")


@dataclass(frozen=True)
class _Build:
    """Commands to be run one after the other in an empty folder; the last makes ``worker`` there."""

    commands: tuple[tuple[str, ...], ...]


def find_worker(system: System, architecture: Architecture, cache: Path | None = None) -> Path:
    """The worker for such a device: the one that came with edgekit, or one that is built now and kept in ``cache``
    (``~/.cache/edgekit/native`` if not given) for as long as its sources and the compiler's command are the same.

    Raises DeviceError when there is no compiler for it, or when the build fails.
    """
    packaged = _package() / "_native" / f"worker-{system}-{architecture}"
    if packaged.is_file():
        return packaged
    sources = source_folder()
    build = _build(system, architecture, sources)
    path = (cache or default_cache()) / f"worker-{system}-{architecture}-{_key(build, sources)}"
    if not path.is_file():
        write_atomic(path, _carry_out(build, f"{system} on {architecture}"))
        path.chmod(0o755)
    return path


def host_architecture() -> Architecture:
    """The architecture of this machine. Raises DeviceError for those that the worker is not built for."""
    names: dict[str, Architecture] = {
        "x86_64": "x86_64",
        "amd64": "x86_64",
        "aarch64": "aarch64",
        "arm64": "aarch64",
    }
    machine = platform.machine().lower()
    if machine not in names:
        raise DeviceError(f"the worker is not built for {machine!r}; known are x86_64 and aarch64")
    return names[machine]


def source_folder() -> Path:
    """Folder of the worker's sources: inside the installed package, or beside it in a source checkout."""
    installed = _package() / "_native" / "worker"
    return installed if installed.is_dir() else _package().parent / "native" / "worker"


def default_cache() -> Path:
    """Where built workers are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit" / "native"


def _package() -> Path:
    return Path(__file__).resolve().parent.parent


def _build(system: System, architecture: Architecture, sources: Path) -> _Build:
    files = tuple(map(str, sorted(sources.glob("*.c"))))
    if not files:
        raise DeviceError(f"{sources}: the sources of the worker are missing", "install edgekit again")
    if system == "linux":
        compiler = _gnu_compiler(architecture)
        return _Build(((compiler, *_FLAGS, _POSIX, "-o", "worker", *files, "-ldl"),))
    ndk = _ndk_compiler(architecture)
    if ndk is not None:
        return _Build(((str(ndk), *_FLAGS, "-fPIE", *_ANDROID_LINK, "-o", "worker", *files, "-ldl"),))
    return _freestanding_build(_gnu_compiler(architecture), files, sources / "android")


def _freestanding_build(compiler: str, files: Sequence[str], android: Path) -> _Build:
    """An Android program from a compiler that knows nothing of Android: see native/worker/android/README.md."""
    libraries = tuple(_empty_library(compiler, android / f"{name}.c") for name in ("libc", "libdl"))
    includes = ("-isystem", _own_headers(compiler), "-isystem", str(android / "include"))
    link = ("-nostdlib", *_ANDROID_LINK, "-Wl,--dynamic-linker=/system/bin/linker64")
    inputs = (*files, str(android / "start.c"), "libc.so", "libdl.so")
    return _Build((*libraries, (compiler, *_FLAGS, *_FREESTANDING, *includes, *link, "-o", "worker", *inputs)))


def _empty_library(compiler: str, source: Path) -> tuple[str, ...]:
    name = f"{source.stem}.so"
    flags = ("-shared", "-nostdlib", "-ffreestanding", "-w", "-fPIC", f"-Wl,-soname,{name}")
    return (compiler, *flags, "-o", name, str(source))


def _gnu_compiler(architecture: Architecture) -> str:
    names = [f"{architecture}-linux-gnu-gcc"]
    if platform.machine().lower() in (architecture, {"x86_64": "amd64", "aarch64": "arm64"}[architecture]):
        names = ["cc", "gcc", *names]
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise DeviceError(
            f"there is no C compiler for {architecture} ({', '.join(names)}) to build the worker with",
            f"install one (Debian: apt install gcc-{architecture.replace('_', '-')}-linux-gnu libc6-dev), or use a "
            "device with Python",
        )
    return found


def _ndk_compiler(architecture: Architecture) -> Path | None:
    """Clang of the NDK that ANDROID_NDK_ROOT names; None where it is not set. Raises DeviceError if it is no NDK."""
    root = os.environ.get("ANDROID_NDK_ROOT")
    if not root:
        return None
    pattern = f"toolchains/llvm/prebuilt/*/bin/{architecture}-linux-android{ANDROID_API_LEVEL}-clang"
    found = sorted(Path(root).glob(pattern))
    if not found:
        raise DeviceError(
            f"ANDROID_NDK_ROOT is {root!r}, where there is no {pattern}",
            "set it to the folder of an NDK of revision 21 or newer, or unset it",
        )
    return found[0]


def _own_headers(compiler: str) -> str:
    """Folder of the headers that belong to the compiler itself (stdint.h, stdarg.h and their like)."""
    return _run((compiler, "-print-file-name=include"), Path.cwd(), "its headers").decode().strip()


def _key(build: _Build, sources: Path) -> str:
    digest = hashlib.sha256(repr(build.commands).encode())
    for path in sorted(path for path in sources.rglob("*") if path.suffix in (".c", ".h")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(sources)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _carry_out(build: _Build, purpose: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgekit-worker-") as name:
        folder = Path(name)
        for command in build.commands:
            _run(command, folder, purpose)
        return (folder / "worker").read_bytes()


def _run(command: Sequence[str], folder: Path, purpose: str) -> bytes:
    try:
        completed = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=BUILD_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"the worker for {purpose} cannot be built: {error}") from error
    if completed.returncode:
        reason = completed.stderr.decode("utf-8", "replace").strip().splitlines()[:5]
        raise DeviceError(f"the worker for {purpose} cannot be built: {' | '.join(reason)}")
    return completed.stdout
