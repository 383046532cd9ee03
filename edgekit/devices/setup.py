"""Installing the worker and its runtimes on a device that needs no internet: this machine fetches what that one lacks.

With Python on the device, wheels for its version and architecture become a virtual environment there. How later
commands find what is installed is in ``installation``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec

from edgekit.devices._base import Device
from edgekit.devices.installation import Installation, with_python, write_installation
from edgekit.errors import DeviceError
from edgekit.files import sha256_bytes
from edgekit.types import Progress, ProgressCallback, RuntimeName, ignore_progress

WHEELS_FOLDER = Path("~/.cache/edgekit/wheels")
"""Where fetched wheels are kept on this machine, by Python version, architecture and C library."""

_PACKAGES: dict[RuntimeName, str] = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}
_NUMPY = "numpy"
_OLDEST_PYTHON = (3, 9)
_FETCH_SECONDS = 600.0
_INSTALL_SECONDS = 600.0
_OLDEST_GLIBC, _NEWEST_GLIBC = 17, 40
# The module that makes environments is part of Python where the one that puts pip into them may not be.
_ASK_PYTHON = (
    "import json,platform,sys;"
    "print(json.dumps({'version':sys.version_info[:2],'libc':platform.libc_ver(),'machine':platform.machine()}))"
)
_UNPACK_WHEELS = """
import pathlib, sys, sysconfig, zipfile
for wheel in sys.argv[1:]:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(sysconfig.get_path("purelib"))
"""


# What a device says becomes the name of a folder here.
_Word = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]?[A-Za-z0-9_.]{0,31}\Z")]
_Number = Annotated[int, msgspec.Meta(ge=0, le=999)]


class DevicePython(msgspec.Struct, frozen=True, kw_only=True):
    """The device's interpreter: version, C library with its version, and what it was built for."""

    version: tuple[_Number, _Number]
    libc: tuple[_Word, _Word]
    machine: _Word

    @property
    def label(self) -> str:
        """Equal where the same wheels run."""
        return f"python{self.version[0]}.{self.version[1]}-{self.machine}-{''.join(self.libc)}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """Platform tags of wheels that run there, best first (PEP 600)."""
        name, version = self.libc
        parts = version.split(".")
        if name != "glibc" or len(parts) < 2 or not parts[1].isdigit():
            return ()
        minor = min(int(parts[1]), _NEWEST_GLIBC)
        tags = tuple(f"manylinux_2_{number}_{self.machine}" for number in range(minor, _OLDEST_GLIBC - 1, -1))
        return (*tags, f"manylinux2014_{self.machine}")


def set_up(
    device: Device,
    runtimes: Sequence[RuntimeName],
    *,
    wheels_folder: Path = WHEELS_FOLDER,
    progress: ProgressCallback = ignore_progress,
) -> Installation:
    """Install the Python worker, numpy and a package for each runtime on ``device``; what is there already stays.

    Raises DeviceError for a device without Python, or for which a package has no wheel, with the package's name.
    """
    python = ask_python(device)
    folder = wheels_folder.expanduser() / python.label
    packages = (_NUMPY, *(_PACKAGES[name] for name in runtimes))
    wheels = []
    for index, package in enumerate(packages):
        progress(Progress(stage="fetch", done=index, total=len(packages), values={"package": package}))
        wheels.append(fetch_wheel(package, python, folder, device.name))
    progress(Progress(stage="fetch", done=len(packages), total=len(packages)))
    interpreter = _install(device, wheels, progress)
    installation = msgspec.structs.replace(
        with_python(device, interpreter),
        runtimes={name: wheel.name for name, wheel in zip(runtimes, wheels[1:], strict=True)},
        environment={"ORT_DISABLE_TELEMETRY": "1"},
    )
    write_installation(device, installation)
    return installation


def ask_python(device: Device) -> DevicePython:
    """What the device's ``python3`` says of itself. Raises DeviceError where there is none, or one that is too old."""
    answer = device.execute(["python3", "-c", _ASK_PYTHON])
    if answer.exit_code:
        raise DeviceError(
            f"{device.name!r} has no python3 that runs",
            "install Python 3.9 or newer there; Android devices need a native worker: see edgekit target setup --help",
        )
    try:
        python = msgspec.json.decode(answer.stdout, type=DevicePython)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DeviceError(f"python3 on {device.name!r} answered {answer.stdout[:80]!r}: {error}") from error
    if python.version < _OLDEST_PYTHON:
        found, oldest = (".".join(map(str, version)) for version in (python.version, _OLDEST_PYTHON))
        raise DeviceError(f"python3 on {device.name!r} is {found}", f"install Python {oldest} or newer there")
    return python


def fetch_wheel(package: str, python: DevicePython, folder: Path, device: str) -> Path:
    """A wheel of ``package`` for the device's Python: the version that this machine has, where there is one of it, so
    that both run the same; else the newest."""
    if not python.platforms:
        raise DeviceError(
            f"{device!r} has the C library {' '.join(python.libc).strip() or 'unknown'}; wheels are for glibc",
            "install the runtimes there yourself, beside python3",
        )
    folder.mkdir(parents=True, exist_ok=True)
    own = _own_version(package)
    # No wheel gets into this folder that does not run there.
    if own and (kept := sorted(folder.glob(f"{package.replace('-', '_')}-{own}-*.whl"))):
        return kept[-1]
    said = ""
    for requirement in dict.fromkeys((f"{package}=={own}" if own else package, package)):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            said = _download(requirement, python, Path(name))
            for wheel in Path(name).glob("*.whl"):
                os.replace(wheel, folder / wheel.name)
                return folder / wheel.name
    version = ".".join(map(str, python.version))
    raise DeviceError(
        f"there is no wheel of {package} for Python {version} on {python.machine}: {said}",
        "another runtime may have one: see `edgekit target show`",
    )


def _own_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _download(requirement: str, python: DevicePython, folder: Path) -> str:
    """Fetch into ``folder``; empty if it went well, else the last line that pip said."""
    version = f"{python.version[0]}{python.version[1]}"
    platforms = [word for tag in python.platforms for word in ("--platform", tag)]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    argv += ["--disable-pip-version-check", "--dest", str(folder), "--python-version", version]
    argv += ["--implementation", "cp", "--abi", f"cp{version}", "--abi", "abi3", "--abi", "none", *platforms]
    try:
        done = subprocess.run([*argv, "--", requirement], capture_output=True, timeout=_FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"pip took longer than {_FETCH_SECONDS:.0f} seconds"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"pip ended with exit code {done.returncode}"


def _install(device: Device, wheels: Sequence[Path], progress: ProgressCallback) -> str:
    """The interpreter of the environment that holds ``wheels``, made unless it is there."""
    key = sha256_bytes("\n".join(wheel.name for wheel in wheels).encode())[:16]
    folder = device.facts().folder
    environment = folder / f"venv-{key}"
    interpreter, finished = str(environment / "bin" / "python3"), str(environment / "finished")
    if device.execute(["test", "-e", finished]).exit_code == 0:
        return interpreter
    for index, wheel in enumerate(wheels):
        progress(Progress(stage="push", done=index, total=len(wheels), values={"file": wheel.name}))
        device.push(wheel.name, wheel.read_bytes())
    progress(Progress(stage="push", done=len(wheels), total=len(wheels)))
    _run(device, ["python3", "-m", "venv", "--clear", "--without-pip", str(environment)])
    pushed = [str(folder / "files" / wheel.name) for wheel in wheels]
    _run(device, [interpreter, "-c", _UNPACK_WHEELS, *pushed])
    _run(device, ["touch", finished])
    _run(device, ["rm", "-f", "--", *pushed])
    return interpreter


def _run(device: Device, argv: Sequence[str]) -> None:
    answer = device.execute(argv, deadline_seconds=_INSTALL_SECONDS)
    if answer.exit_code:
        said = answer.stderr.decode(errors="replace").strip().splitlines()
        raise DeviceError(f"{device.name}: {argv[0]} failed: {said[-1][:300] if said else answer.exit_code}")
