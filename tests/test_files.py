"""Files are replaced whole or not at all, and locks keep others out."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import files
from edgekit.errors import BadInputError, EdgekitError

_ADD_ONE = """
import sys
from pathlib import Path
from edgekit.files import locked, write_atomic
path = Path(sys.argv[1])
for _ in range(25):
    with locked(path):
        write_atomic(path, str(int(path.read_text()) + 1).encode())
"""


def test_a_written_file_holds_the_data_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "new" / "a.bin", b"data")

    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [b"data"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(EdgekitError, match="No space left"):
        files.write_atomic(path, b"new")

    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(0o640)

    files.write_atomic(path, b"new")

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_is_written_through_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")

    files.write_atomic(tmp_path / "link", b"new")

    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_text_that_is_written_gradually_takes_the_place_of_the_old_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    path.chmod(0o640)

    with files.write_gradually(path) as stream:
        stream.write("new")
        assert path.read_text() == "old"

    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o640)
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_is_broken_off_lies_beside_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")

    with pytest.raises(KeyboardInterrupt), files.write_gradually(path) as stream:
        stream.write("half")
        raise KeyboardInterrupt

    assert (path.read_text(), files.unfinished(path).read_text()) == ("old", "half")


def test_gradual_writing_goes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/real")

    with files.write_gradually(tmp_path / "link") as stream:
        stream.write("new")

    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder" / "real").read_text() == "new"


def test_a_stream_that_is_no_file_is_written_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    with files.write_gradually(tmp_path / "pipe") as stream:
        stream.write("text")

    assert (os.read(reader, 10), list(tmp_path.iterdir())) == (b"text", [tmp_path / "pipe"])
    os.close(reader)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(EdgekitError, match=r"a\.csv: cannot be written: No such"),
        files.write_gradually(tmp_path / "no" / "a.csv"),
    ):
        pass


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)

    assert files.sha256_file(tmp_path / "a") == files.sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_two_processes_that_lock_lose_no_update(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    command = [sys.executable, "-c", _ADD_ONE, str(counter)]
    for process in [subprocess.Popen(command) for _ in range(2)]:
        assert process.wait(timeout=60) == 0

    assert counter.read_text() == "50"


def test_a_lock_leaves_no_file_behind(tmp_path: Path) -> None:
    with files.locked(tmp_path / "a.json"):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(BadInputError, match="regular file"):
        files.read_bounded(tmp_path / "pipe", 10)


def test_a_file_above_the_limit_is_refused_with_its_name_and_the_limit(tmp_path: Path) -> None:
    (tmp_path / "big.json").write_bytes(b"x" * 11)

    with pytest.raises(BadInputError, match=r"big\.json.*10 bytes"):
        files.read_bounded(tmp_path / "big.json", 10)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"gone\.json: no such file"):
        files.read_bounded(tmp_path / "gone.json", 10)
