"""Many files at once to a device with a shell: in few exchanges, whole or not at all, and without tar too."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from edgekit.devices import Completed, Device, Link
from edgekit.devices.local import LocalLink
from edgekit.devices.posix import FILES_PER_EXCHANGE, PIECE_BYTES, SMALL_FILE_BYTES, PosixDevice
from edgekit.errors import DeviceError, LinkLostError
from tests.devices.cutting import CuttingLink, Moment
from tests.devices.test_posix import FolderLink, programs_of

MODELS = {f"model-{number}": bytes([number]) * 3000 for number in range(64)}


class CountingLink(Link):
    """Counts exchanges; ``damage`` changes what is sent in one of them."""

    def __init__(self, link: Link, damage_at: int = -1) -> None:
        self._link = link
        self._damage_at = damage_at
        self.exchanges = 0

    def execute(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        if self.exchanges == self._damage_at:
            stdin = stdin.replace(b"\7" * 3000, b"\7" * 2999 + b"\6")
        self.exchanges += 1
        return self._link.execute(argv, stdin, deadline_seconds)

    def close(self) -> None:
        self._link.close()


@pytest.fixture
def link() -> CountingLink:
    return CountingLink(LocalLink())


@pytest.fixture
def device(link: CountingLink, tmp_path: Path) -> Device:
    return PosixDevice("here", link, str(tmp_path / "device"))


def found(folder: Path) -> dict[str, bytes]:
    """What lies on the device, half files included."""
    files = {path.name: path.read_bytes() for path in (folder / "device/files").iterdir()}
    left = list((folder / "device/partial").iterdir())
    return files | {f"partial {path.name}": b"" for path in left}


def test_many_models_take_two_exchanges(device: Device, link: CountingLink, tmp_path: Path) -> None:
    device.push_all(MODELS)

    assert link.exchanges == 2 and found(tmp_path) == MODELS


def test_models_that_are_there_take_one_exchange(device: Device, link: CountingLink) -> None:
    device.push_all(MODELS)
    link.exchanges = 0

    device.push_all(MODELS)

    assert link.exchanges == 1


def test_only_what_is_missing_is_sent(device: Device, tmp_path: Path) -> None:
    device.push_all(MODELS)
    kept = tmp_path / "device/files/model-1"
    before = kept.stat().st_ino
    device.remove(["model-2"])

    device.push_all(MODELS)

    assert found(tmp_path) == MODELS and kept.stat().st_ino == before


def test_more_than_one_exchange_can_carry_takes_more(device: Device, link: CountingLink, tmp_path: Path) -> None:
    count = PIECE_BYTES // SMALL_FILE_BYTES + 1
    contents = {f"model-{number}": bytes([number]) * SMALL_FILE_BYTES for number in range(count)}

    device.push_all(contents)

    assert link.exchanges == 3 and found(tmp_path) == contents


def test_more_names_than_one_exchange_can_carry_take_more(device: Device, link: CountingLink, tmp_path: Path) -> None:
    contents = {f"model-{number}": b"%d" % number for number in range(FILES_PER_EXCHANGE + 1)}

    device.push_all(contents)
    device.remove(list(contents))

    assert link.exchanges == 6 and found(tmp_path) == {}


def test_a_large_file_goes_beside_them(device: Device, tmp_path: Path) -> None:
    contents = {**MODELS, "large": bytes(SMALL_FILE_BYTES + 1)}

    device.push_all(contents)

    assert found(tmp_path) == contents


def test_a_device_without_tar_gets_them_one_by_one(tmp_path: Path) -> None:
    programs = programs_of(tmp_path / "bin", "dash", None, leave_out=("tar",))
    contents = {name: MODELS[name] for name in ("model-1", "model-2")}

    PosixDevice("bare", FolderLink(programs), str(tmp_path / "device")).push_all(contents)

    assert found(tmp_path) == contents


def test_files_that_arrive_damaged_are_not_kept(tmp_path: Path) -> None:
    device = PosixDevice("here", CountingLink(LocalLink(), damage_at=1), str(tmp_path / "device"))

    with pytest.raises(DeviceError, match="arrived damaged"):
        device.push_all(MODELS)

    assert found(tmp_path) == {}


@pytest.mark.parametrize("moment", ["before", "middle", "after"])
@pytest.mark.parametrize("lose_at", [0, 1])
def test_a_cut_leaves_whole_files_only_and_the_next_push_completes_them(
    lose_at: int, moment: Moment, tmp_path: Path
) -> None:
    device = PosixDevice("here", CuttingLink(LocalLink(), lose_at, moment, 5.0), str(tmp_path / "device"))
    with suppress(LinkLostError, DeviceError):
        device.push_all(MODELS)
    if (tmp_path / "device").exists():
        assert set(found(tmp_path).items()) <= set(MODELS.items())

    device.push_all(MODELS)

    assert found(tmp_path) == MODELS


def test_files_are_nobody_elses_to_read(device: Device, tmp_path: Path) -> None:
    device.push_all({"model": b"content"})

    assert (tmp_path / "device/files/model").stat().st_mode & 0o777 == 0o500


def test_what_had_arrived_of_a_file_goes_with_it(device: Device, tmp_path: Path) -> None:
    device.push("model", b"content")
    (tmp_path / "device/partial/model/sum").mkdir(parents=True)

    device.remove(["model"])

    assert found(tmp_path) == {}
