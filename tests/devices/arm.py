"""Programs for aarch64 on this machine: qemu, the cross-compiler's C library, and ONNX Runtime's wheel for aarch64.

What programs see of the processor is that of a Raspberry Pi 4. Times taken here mean nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from edgekit.files import locked
from tests.devices.nnapi import CACHE, FETCH_SECONDS

_SYSTEM = Path("/usr/aarch64-linux-gnu")
_CORTEX_A72 = """processor\t: {core}
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


def emulator(folder: Path) -> list[str]:
    """What starts a program for aarch64; ``folder`` is where it sees its own /lib and /proc/cpuinfo (ONNX Runtime
    crashes on that of another architecture)."""
    program = shutil.which("qemu-aarch64")
    if program is None or not (_SYSTEM / "lib" / "libstdc++.so.6").exists():
        pytest.skip("programs for aarch64 need qemu-user and libstdc++6-arm64-cross")
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_text("".join(_CORTEX_A72.format(core=core) for core in range(4)))
    (folder / "lib").symlink_to(_SYSTEM / "lib")
    return [program, "-L", str(folder)]


def onnxruntime_library(version: str) -> Path:
    """ONNX Runtime's library for aarch64, fetched once from the package index; skips the test where it cannot be."""
    library = CACHE / f"onnxruntime-{version}-aarch64" / "libonnxruntime.so"
    with locked(library):
        if not library.is_file():
            _fetch(library, version)
    return library


def _fetch(library: Path, version: str) -> None:
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28, 34)]
    wanted = ["--no-deps", "--only-binary=:all:", *platforms, f"onnxruntime=={version}"]
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", name, *wanted]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=FETCH_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"ONNX Runtime for aarch64 cannot be fetched: {error}")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            (member,) = (name for name in files.namelist() if "/capi/libonnxruntime.so." in name)
            (folder / "library").write_bytes(files.read(member))
        os.replace(folder / "library", library)
