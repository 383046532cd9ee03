"""This machine as a device: the suite, and what happens when its link is lost in any exchange."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from edgekit.devices import posix
from edgekit.devices.local import LocalLink, open_local
from edgekit.devices.posix import PosixDevice
from edgekit.errors import LinkLostError
from tests.devices.conformance import Connect, DeviceConformance
from tests.devices.cutting import CONTENT, CuttingLink, Moment, survive_cuts


class TestLocalDevice(DeviceConformance):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Connect:
        return lambda: open_local("here", tmp_path / "device")

    @pytest.mark.parametrize("moment", ["before", "middle", "after"])
    def test_a_job_survives_a_cut_in_each_of_its_exchanges(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: Moment
    ) -> None:
        monkeypatch.setattr(posix, "PIECE_BYTES", len(CONTENT) // 3)
        for number in count():
            link = CuttingLink(LocalLink(), number, moment)
            device = PosixDevice("here", link, str(tmp_path / str(number)))

            losses = survive_cuts(device, lambda step: None, self.alive)

            assert losses <= 1
            if link.exchanges <= number:
                break
        assert number >= 16

    @pytest.mark.parametrize("milliseconds", [1, 4, 16])
    def test_a_job_survives_a_shell_that_is_killed_on_its_way(self, tmp_path: Path, milliseconds: int) -> None:
        for number in range(8):
            link = CuttingLink(LocalLink(), number, "middle", milliseconds / 1e3)

            survive_cuts(PosixDevice("here", link, str(tmp_path / str(number))), lambda step: None, self.alive)

    def test_a_push_that_was_cut_goes_on_where_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(posix, "PIECE_BYTES", len(CONTENT) // 3)
        cut = PosixDevice("here", CuttingLink(LocalLink(), 3, "before"), str(tmp_path))
        with pytest.raises(LinkLostError):
            cut.push("content", CONTENT)
        link = CuttingLink(LocalLink(), -1, "before")

        PosixDevice("here", link, str(tmp_path)).push("content", CONTENT)

        assert link.exchanges == 3
