"""Which files are taken for a device's runtime, and what is left on the device once one is installed.

Workers are not built here: that is tested where they are.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.devices import DeviceFacts, setup_native
from edgekit.devices.fake import FakeDevice, FakeMachine
from edgekit.devices.installation import read_installation
from edgekit.devices.native_worker import Architecture, System
from edgekit.devices.setup_native import read_library, set_up_native
from edgekit.errors import BadInputError, DeviceError
from edgekit.types import Progress

WORKER = b"\x7fELF a worker"
MACHINES: dict[Architecture, int] = {"x86_64": 62, "aarch64": 183}
ARM_MEMBER = "jni/arm64-v8a/libonnxruntime.so"
X86_MEMBER = "jni/x86_64/libonnxruntime.so"


def library(architecture: Architecture = "aarch64", *, text: bytes = b"the runtime") -> bytes:
    """The header of a shared library, and something behind it."""
    return elf(bits=2, order=1, kind=3, machine=MACHINES[architecture]) + text


def elf(*, bits: int, order: int, kind: int, machine: int) -> bytes:
    numbers = struct.pack("<HHI" if order == 1 else ">HHI", kind, machine, 1)
    return b"\x7fELF" + bytes([bits, order, 1]) + bytes(9) + numbers + bytes(40)


def archive(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return stream.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[System, Architecture]]:
    """What workers were asked for; each is the same file."""
    asked: list[tuple[System, Architecture]] = []

    def find(system: System, architecture: Architecture) -> Path:
        asked.append((system, architecture))
        return written(tmp_path / "worker", WORKER)

    monkeypatch.setattr(setup_native, "find_worker", find)
    return asked


class Phone(FakeDevice):
    """A device whose processor is said to be ``architecture``."""

    def __init__(self, architecture: str = "aarch64") -> None:
        super().__init__("phone", FakeMachine())
        self._architecture = architecture

    def facts(self) -> DeviceFacts:
        return msgspec.structs.replace(super().facts(), architecture=self._architecture)


@pytest.mark.parametrize("architecture", MACHINES)
def test_the_library_itself_is_taken_as_it_is(tmp_path: Path, architecture: Architecture) -> None:
    path = written(tmp_path / "libonnxruntime.so", library(architecture))

    assert read_library(path, architecture) == library(architecture)


@pytest.mark.parametrize("name", ["onnxruntime.aar", "ONNXRUNTIME.AAR", "onnxruntime.zip"])
def test_of_an_archive_the_devices_processor_decides(tmp_path: Path, name: str) -> None:
    members = {X86_MEMBER: library("x86_64"), ARM_MEMBER: library("aarch64"), "classes.jar": b"PK"}
    path = written(tmp_path / name, archive(members))

    assert [read_library(path, each) for each in MACHINES] == [library(each) for each in MACHINES]


def test_an_archive_without_the_devices_processor_names_what_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path / "onnxruntime.aar", archive({X86_MEMBER: library("x86_64")}))

    with pytest.raises(BadInputError, match="arm64-v8a") as raised:
        read_library(path, "aarch64")

    assert raised.value.hint is not None and "onnxruntime-android" in raised.value.hint


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no libonnxruntime.so"),
        (b"MZ a library of Windows", "is no libonnxruntime.so"),
        (b"\x7fELF", "is no libonnxruntime.so"),
        (elf(bits=1, order=1, kind=3, machine=40), "is no 64-bit library"),
        (elf(bits=2, order=2, kind=3, machine=183), "is no 64-bit library"),
        (elf(bits=2, order=1, kind=2, machine=183), "is no shared library"),
        (elf(bits=2, order=1, kind=1, machine=183), "is no shared library"),
        (library("x86_64"), "x86_64"),
        (elf(bits=2, order=1, kind=3, machine=8), "another processor"),
    ],
    ids=["empty", "windows", "cut", "32-bit", "big endian", "program", "object", "x86_64", "mips"],
)
def test_what_the_device_could_not_load_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = written(tmp_path / "libonnxruntime.so", content)

    with pytest.raises(BadInputError, match=reason) as raised:
        read_library(path, "aarch64")

    assert str(path) in raised.value.message


def test_a_wrong_library_in_an_archive_is_refused_with_its_name(tmp_path: Path) -> None:
    path = written(tmp_path / "onnxruntime.aar", archive({ARM_MEMBER: library("x86_64")}))

    with pytest.raises(BadInputError, match="is for x86_64, and the device is aarch64"):
        read_library(path, "aarch64")


def test_an_archive_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = archive({ARM_MEMBER: library(text=bytes(range(256)) * 8)})

    for size in range(0, len(whole), 7):
        with pytest.raises(BadInputError):
            read_library(written(tmp_path / "onnxruntime.aar", whole[:size]), "aarch64")


@given(st.data())
def test_a_damaged_archive_is_refused_or_read_right(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(archive({ARM_MEMBER: library(text=bytes(range(256)) * 2)}))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.mktemp("damaged") / "onnxruntime.aar", bytes(whole))

    try:
        found = read_library(path, "aarch64")
    except BadInputError:
        return
    assert found == library(text=bytes(range(256)) * 2)


@pytest.mark.parametrize("claimed", [10, 2**31, 2**32 - 1])
def test_an_archive_that_lies_about_the_size_is_refused(tmp_path: Path, claimed: int) -> None:
    content = archive({ARM_MEMBER: library(text=bytes(5000))})
    true_size = struct.pack("<I", len(library(text=bytes(5000))))
    assert content.count(true_size) == 2
    path = written(tmp_path / "onnxruntime.aar", content.replace(true_size, struct.pack("<I", claimed)))

    with pytest.raises(BadInputError):
        read_library(path, "aarch64")


def test_an_archive_that_unpacks_to_more_than_allowed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_native, "_LIBRARY_LIMIT_BYTES", 1000)
    path = written(tmp_path / "onnxruntime.aar", archive({ARM_MEMBER: library(text=bytes(5000))}))

    with pytest.raises(BadInputError, match="allowed are 1000"):
        read_library(path, "aarch64")


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    content = bytearray(archive({ARM_MEMBER: library()}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path = written(tmp_path / "onnxruntime.aar", bytes(content))

    with pytest.raises(BadInputError, match="encrypted"):
        read_library(path, "aarch64")


def test_setup_leaves_worker_library_and_word_of_them(tmp_path: Path, built: list[tuple[System, Architecture]]) -> None:
    device = Phone()

    installed = set_up_native(device, written(tmp_path / "onnxruntime.so", library()), "android")

    assert built == [("android", "aarch64")]
    assert read_installation(device) == installed
    contents = {wanted: device.fetch(name) for wanted, name in installed.files.items()}
    assert contents == {"worker": WORKER, "libonnxruntime.so": library()}
    assert installed.argv == ("./worker",) and installed.library == "libonnxruntime.so"


def test_setup_tells_each_file(tmp_path: Path) -> None:
    told: list[Progress] = []

    set_up_native(Phone(), written(tmp_path / "onnxruntime.so", library()), "android", progress=told.append)

    assert [(each.done, each.total) for each in told] == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("architecture", ["armv7l", "riscv64", "", "aarch64; reboot"])
def test_an_unknown_processor_is_refused_before_anything_is_pushed(tmp_path: Path, architecture: str) -> None:
    device = Phone(architecture)

    with pytest.raises(DeviceError, match="x86_64") as raised:
        set_up_native(device, written(tmp_path / "onnxruntime.so", library()), "android")

    assert repr(architecture) in raised.value.message and not device.machine.files


def test_a_wrong_library_changes_nothing_on_the_device(tmp_path: Path) -> None:
    device = Phone()

    with pytest.raises(BadInputError):
        set_up_native(device, written(tmp_path / "onnxruntime.so", library("x86_64")), "android")

    assert not device.machine.files
