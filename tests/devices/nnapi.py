"""A phone with an accelerator, as far as a program can see it: Android's own ONNX Runtime on this machine.

The unmodified library of the Android package is loaded over stand-ins (tests/devices/bionic) of bionic, which pass
everything on to glibc, and of NNAPI, which computes a few operations. Times taken here mean nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.files import locked
from tests.devices import phone

PACKAGE = "com.github.asus4.onnxruntime"
PACKAGE_VERSION = "0.4.9"
CACHE = Path.home() / ".cache" / "edgekit-tests"
FETCH_SECONDS = 300

_ARCHIVE_MEMBER = "package/Plugins/Android/onnxruntime.aar"
_LIBRARY_MEMBER = "jni/x86_64/libonnxruntime.so"
_LOADER = Path("/lib64/ld-linux-x86-64.so.2")
_SOURCES = Path(__file__).parent / "bionic"
# What bionic has these in; the stand-in has everything in libc.so.
_EMPTY_LIBRARIES = ("libm", "libdl")


@dataclass(frozen=True)
class Phone:
    """The folder with the stand-ins and ONNX Runtime."""

    folder: Path

    def argv(self, program: Path, *arguments: str) -> list[str]:
        """What starts an Android program here."""
        return [str(_LOADER), "--library-path", str(self.folder), str(program), *arguments]


def make_phone(folder: Path, program: Path) -> Phone:
    """Build the stand-ins for ``program`` and ONNX Runtime. Skips the test where the library cannot be had."""
    library = build_stand_ins(folder, program)
    (folder / "libonnxruntime.so").symlink_to(library)
    return Phone(folder)


def equip(entered: phone.Phone, program: Path) -> Path:
    """Give an entered phone Android's dynamic linker, its libraries and an accelerator; ``program`` and ONNX Runtime,
    whose library is returned, then run there as they are. Skips the test where the library cannot be had."""
    with tempfile.TemporaryDirectory(prefix="edgekit-phone-") as name:
        library = build_stand_ins(Path(name), program)
        for stand_in in Path(name).glob("*.so"):
            # Where the stand-in's linker looks, which is glibc's: /system/lib64 leads there.
            shutil.copy(stand_in, entered.root / "usr/lib")
    (entered.root / "system/bin/linker64").symlink_to(_LOADER)
    return library


def android_archive(folder: Path) -> Path:
    """The library as its users get it: an .aar with one folder per processor."""
    archive = folder / "onnxruntime-android.aar"
    with zipfile.ZipFile(archive, "w") as members:
        members.write(android_library(), _LIBRARY_MEMBER)
        members.writestr(_LIBRARY_MEMBER.replace("x86_64", "arm64-v8a"), b"\x7fELF of another processor")
    return archive


def build_stand_ins(folder: Path, program: Path) -> Path:
    """Build the stand-ins for ``program`` and ONNX Runtime, whose library is returned."""
    library = android_library()
    _build_libc(folder, _imported_names(library) | _imported_names(program))
    for name in _EMPTY_LIBRARIES:
        empty = folder / f"{name}.c"
        empty.write_text(f"int {name}_is_empty;\n", encoding="ascii")
        _link(folder, name, empty, "-nostdlib")
    _link(folder, "liblog", _SOURCES / "liblog.c", "-nostdlib")
    _link(folder, "libandroid", _SOURCES / "libandroid.c", "-nostdlib", "-L.", "-lreal")
    _link(folder, "libneuralnetworks", _SOURCES / "libneuralnetworks.c")
    return library


def android_library() -> Path:
    """ONNX Runtime for Android on x86_64 with its NNAPI provider, fetched once from the npm registry."""
    if platform.machine() != "x86_64" or not _LOADER.exists():
        pytest.skip("the stand-in for Android runs on x86_64 Linux with glibc only")
    for tool in ("npm", "cc", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"the stand-in for Android needs the program {tool}")
    library = CACHE / f"{PACKAGE}-{PACKAGE_VERSION}" / "libonnxruntime.so"
    with locked(library):
        if not library.is_file():
            _fetch(library)
    return library


def _fetch(library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        folder = Path(name)
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{PACKAGE_VERSION}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"{PACKAGE} cannot be fetched from the npm registry: {error}")
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as members:
            package = members.extractfile(_ARCHIVE_MEMBER)
            assert package is not None
            with package, zipfile.ZipFile(package) as files:
                (folder / "library").write_bytes(files.read(_LIBRARY_MEMBER))
        os.replace(folder / "library", library)


def _build_libc(folder: Path, names: set[str]) -> None:
    """libc.so: the stand-in's own functions, and for every other name a jump to where glibc has it."""
    _link(folder, "libreal", _SOURCES / "real.c")
    flags = ("-fPIC", "-O1", "-fno-builtin", "-fno-stack-protector")
    _run(folder, "cc", *flags, "-c", "-o", "own.o", str(_SOURCES / "libc.c"))
    own = {words[-1] for words in _nm(folder / "own.o", "--defined-only") if words[-2] in "TDB"}
    (folder / "forward.s").write_text(_forwards(sorted(names - own)), encoding="ascii")
    (folder / "libc.map").write_text("LIBC { global: *; };\n", encoding="ascii")
    # Its symbols must have a version: glibc's own search for theirs would else find these.
    options = ("-nostdlib", "-Wl,--version-script=libc.map", "-Wl,-soname,libc.so")
    _run(folder, "cc", "-shared", *options, "-o", "libc.so", "own.o", "forward.s", "-L.", "-lreal")


def _forwards(names: Sequence[str]) -> str:
    lines = [".data", ".balign 8", ".globl forward_targets", ".hidden forward_targets", "forward_targets:"]
    lines += [f".zero {8 * len(names)}", ".section .rodata", ".globl forward_count, forward_names"]
    lines += [".hidden forward_count", ".hidden forward_names", ".balign 4"]
    lines += ["forward_count:", f".4byte {len(names)}", "forward_names:"]
    lines += [f'.asciz "{name}"' for name in names]
    lines += [".text"]
    for index, name in enumerate(names):
        jump = f"jmp *forward_targets+{8 * index}(%rip)"
        lines += [f".globl {name}", f".type {name}, %function", f"{name}:", jump]
    return "\n".join([*lines, '.section .note.GNU-stack, "", %progbits', ""])


def _imported_names(binary: Path) -> set[str]:
    """Functions that a binary takes from bionic: without a version, or with that of bionic."""
    weak = ("__gcov_", "_ZT")
    elsewhere = ("__android_log_", *weak)
    names = {words[-1].split("@")[0] for words in _nm(binary, "-D", "--undefined-only")}
    return {name for name in names if not name.startswith(elsewhere)}


def _nm(binary: Path, *options: str) -> list[list[str]]:
    listed = subprocess.run(["nm", *options, str(binary)], check=True, capture_output=True, text=True, timeout=60)
    return [line.split() for line in listed.stdout.splitlines()]


def _link(folder: Path, name: str, source: Path, *options: str) -> None:
    flags = ("-shared", "-fPIC", "-O1", "-fno-builtin", f"-Wl,-soname,{name}.so")
    _run(folder, "cc", *flags, "-o", f"{name}.so", str(source), *options)


def _run(folder: Path, *command: str) -> None:
    completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr
