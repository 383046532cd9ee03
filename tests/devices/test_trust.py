"""Known hosts: read as OpenSSH reads them, pinned per project, and never replaced without being told."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.devices.trust import HostKey, Known, accept, known_name, look_up, refusal
from edgekit.errors import BadInputError, TrustError

KEYGEN = shutil.which("ssh-keygen")
needs_keygen = pytest.mark.skipif(KEYGEN is None, reason="needs ssh-keygen: apt-get install openssh-client")


def key(seed: int) -> HostKey:
    """An Ed25519 key as far as files go: its parts have the right lengths."""
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([seed]) * 32
    return HostKey("ssh-ed25519", base64.b64encode(blob).decode())


A, B, C = key(1), key(2), key(3)


def line(names: str, of: HostKey, marker: str = "") -> str:
    return f"{marker} {names} {of.algorithm} {of.text}\n".lstrip()


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines), encoding="utf-8")
    return path


def known(pins: Path, host: str = "pi", port: int = 22, users_file: Path | None = None) -> Known:
    return look_up(host, port, pins, [] if users_file is None else [users_file])


def keygen(*arguments: str | Path) -> str:
    assert KEYGEN is not None
    return subprocess.run([KEYGEN, *arguments], capture_output=True, text=True).stdout


def test_a_host_without_any_entry_is_not_trusted(tmp_path: Path) -> None:
    assert known(tmp_path / "none").trusting(A) is None


def test_an_accepted_key_is_trusted_and_its_place_is_told(tmp_path: Path) -> None:
    accept("pi", 22, A, pins := tmp_path / "pins")
    entry = known(pins).trusting(A)
    assert entry is not None and entry.place == f"{pins}:1"


def test_another_key_than_the_accepted_one_is_not_trusted(tmp_path: Path) -> None:
    accept("pi", 22, A, pins := tmp_path / "pins")
    assert known(pins).trusting(B) is None


@pytest.mark.parametrize("host", ["pi2", "pi.local", "p", "xpi"])
def test_an_accepted_key_holds_for_its_host_only(tmp_path: Path, host: str) -> None:
    accept("pi", 22, A, pins := tmp_path / "pins")
    assert known(pins, host).trusting(A) is None


@pytest.mark.parametrize(("accepted", "other"), [(2222, 22), (2222, 2223), (22, 2222)])
def test_a_key_accepted_for_one_port_says_nothing_of_another(tmp_path: Path, accepted: int, other: int) -> None:
    accept("pi", accepted, A, pins := tmp_path / "pins")
    assert known(pins, port=other).trusting(A) is None


def test_host_names_are_the_same_in_capitals(tmp_path: Path) -> None:
    accept("PI.Local", 2222, A, pins := tmp_path / "pins")
    assert known(pins, "pi.LOCAL", 2222).trusting(A)


def test_accepting_twice_writes_once(tmp_path: Path) -> None:
    accept("pi", 22, A, pins := tmp_path / "pins")
    accept("pi", 22, A, pins)
    assert pins.read_text(encoding="utf-8") == line("pi", A)


def test_a_changed_key_is_not_accepted_unless_told_to_replace(tmp_path: Path) -> None:
    accept("pi", 22, A, pins := tmp_path / "pins")
    with pytest.raises(TrustError) as caught:
        accept("pi", 22, B, pins)
    assert A.fingerprint in caught.value.message and B.fingerprint in caught.value.message
    assert known(pins).trusting(A)


def test_a_replaced_key_is_trusted_no_more(tmp_path: Path) -> None:
    accept("pi", 22, A, pins := tmp_path / "pins")
    accept("pi", 22, B, pins, replace=True)
    assert known(pins).trusting(B) and not known(pins).trusting(A)


def test_replacing_leaves_all_other_lines_as_they_were(tmp_path: Path) -> None:
    others = "# the lab\n", line("pi3,192.168.0.3", C), "what is this\n"
    pins = written(tmp_path / "pins", others[0], line("pi", A), *others[1:])
    accept("pi", 22, B, pins, replace=True)
    assert pins.read_text(encoding="utf-8") == "".join(others) + line("pi", B)


def test_replacing_keeps_the_key_for_the_other_names_of_its_line(tmp_path: Path) -> None:
    pins = written(tmp_path / "pins", line("pi,pi-by-wire", A))
    accept("pi", 22, B, pins, replace=True)
    assert known(pins, "pi-by-wire").trusting(A) and not known(pins).trusting(A)


def test_of_two_pinned_keys_replacing_leaves_the_one_told(tmp_path: Path) -> None:
    pins = written(tmp_path / "pins", line("pi", A), line("pi", B))
    accept("pi", 22, A, pins, replace=True)
    assert pins.read_text(encoding="utf-8") == line("pi", A)


def test_the_users_own_known_hosts_are_trusted_already(tmp_path: Path) -> None:
    users_file = written(tmp_path / "users", "\n", line("pi", A))
    entry = known(tmp_path / "pins", users_file=users_file).trusting(A)
    assert entry is not None and entry.place == f"{users_file}:2"


def test_the_projects_pin_wins_over_the_users_known_hosts(tmp_path: Path) -> None:
    users_file = written(tmp_path / "users", line("pi", B), line("*", C, "@cert-authority"))
    accept("pi", 22, A, pins := tmp_path / "pins")
    found = known(pins, users_file=users_file)
    assert found.trusting(A) and not found.trusting(B) and not found.authorities


def test_a_key_known_for_the_default_port_is_trusted_on_another(tmp_path: Path) -> None:
    users_file = written(tmp_path / "users", line("pi", A))
    assert known(tmp_path / "pins", port=2222, users_file=users_file).trusting(A)


def test_a_different_key_on_another_port_is_unknown_not_changed(tmp_path: Path) -> None:
    users_file = written(tmp_path / "users", line("pi", A))
    error = refusal(known(tmp_path / "pins", port=2222, users_file=users_file), B, "pi4")
    assert "is not known" in error.message


@pytest.mark.parametrize("marked_in", ["pins", "users"])
def test_a_revoked_key_is_not_trusted_wherever_it_is_pinned(tmp_path: Path, marked_in: str) -> None:
    files = {"pins": [line("pi", A)], "users": [line("pi", A)]}
    files[marked_in].append(line("*", A, "@revoked"))
    pins, users_file = (written(tmp_path / name, *lines) for name, lines in files.items())
    found = known(pins, users_file=users_file)
    assert found.trusting(A) is None
    assert f"{tmp_path / marked_in}:2" in refusal(found, A, "pi4").message


def test_an_authority_is_no_host_key(tmp_path: Path) -> None:
    users_file = written(tmp_path / "users", line("*.lab", A, "@cert-authority"))
    found = known(tmp_path / "pins", "pi.lab", users_file=users_file)
    assert found.trusting(A) is None and [entry.key for entry in found.authorities] == [A]


@pytest.mark.parametrize(
    ("names", "host", "fits"),
    [
        ("*.lab", "pi.lab", True),
        ("*.lab", "pixlab", False),
        ("pi?", "pi4", True),
        ("pi?", "pi", False),
        ("pi[34]", "pi3", False),
        ("*,!pi", "pi", False),
        ("*,!pi", "pi5", True),
        ("!pi", "pi5", False),
        ("pi,pi5", "pi5", True),
    ],
)
def test_patterns_mean_what_they_mean_to_openssh(tmp_path: Path, names: str, host: str, fits: bool) -> None:
    users_file = written(tmp_path / "users", line(names, A))
    assert (known(tmp_path / "pins", host, users_file=users_file).trusting(A) is not None) == fits


@needs_keygen
@pytest.mark.parametrize(("host", "port"), [("pi", 22), ("pi", 2222), ("192.168.0.4", 22), ("fe80::1", 2222)])
def test_names_hashed_by_openssh_are_found(tmp_path: Path, host: str, port: int) -> None:
    users_file = written(tmp_path / "users", line(known_name(host, port), A))
    keygen("-H", "-f", users_file)
    assert users_file.read_text(encoding="utf-8").startswith("|1|")
    assert known(tmp_path / "pins", host, port, users_file).trusting(A)
    assert not known(tmp_path / "pins", "pi9", port, users_file).trusting(A)


@needs_keygen
@pytest.mark.parametrize(("host", "port"), [("pi", 22), ("pi.local", 2222), ("fe80::1", 2222)])
def test_openssh_finds_what_was_accepted(tmp_path: Path, host: str, port: int) -> None:
    accept(host, port, A, pins := tmp_path / "pins")
    name = f"[{host}]:{port}" if port != 22 else host
    assert A.text in keygen("-F", name, "-f", pins)


@needs_keygen
def test_fingerprints_are_those_of_openssh(tmp_path: Path) -> None:
    keygen("-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    algorithm, text = (tmp_path / "key.pub").read_text(encoding="utf-8").split()[:2]
    assert HostKey(algorithm, text).fingerprint == keygen("-lf", tmp_path / "key.pub").split()[1]


@pytest.mark.parametrize(
    "bad",
    ["pi", "pi ssh-ed25519", "pi ssh-ed25519 %%%", "@what pi ssh-ed25519 AAAA", "|1|x|y ssh-ed25519 AAAA", "\x00"],
)
def test_lines_that_cannot_be_read_hide_none_of_the_others(tmp_path: Path, bad: str) -> None:
    users_file = written(tmp_path / "users", bad + "\n", line("pi", A))
    assert known(tmp_path / "pins", users_file=users_file).trusting(A)


@given(st.binary(max_size=300))
def test_no_file_makes_the_reader_fail(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    pins = tmp_path_factory.mktemp("trust") / "pins"
    pins.write_bytes(content)
    assert known(pins).trusting(A) is None


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "pins").open("wb") as stream:
        stream.truncate(9 * 2**20)
    with pytest.raises(BadInputError, match="larger"):
        known(tmp_path / "pins")


def test_a_device_where_the_file_should_be_holds_no_keys(tmp_path: Path) -> None:
    assert known(tmp_path / "pins", users_file=Path("/dev/null")).keys == ()


def test_an_unknown_key_is_shown_with_the_command_that_trusts_it(tmp_path: Path) -> None:
    error = refusal(known(tmp_path / "pins"), A, "kitchen")
    assert A.fingerprint in error.message and error.exit_code == 5
    assert error.hint is not None and error.hint.endswith("edgekit target trust kitchen")


def test_a_changed_key_is_shown_with_both_fingerprints_and_where_the_old_one_is_from(tmp_path: Path) -> None:
    accept("pi", 22, A, pins := tmp_path / "pins")
    error = refusal(known(pins), B, "kitchen")
    assert A.fingerprint in error.message and B.fingerprint in error.message and f"{pins}:1" in error.message
    assert error.hint is not None and error.hint.endswith("edgekit target trust kitchen --replace")


def test_many_at_once_lose_no_key(tmp_path: Path) -> None:
    pins = tmp_path / "pins"
    program = (
        "import sys; from pathlib import Path; from edgekit.devices.trust import HostKey, accept\n"
        "for n in range(10): accept(f'{sys.argv[1]}{n}', 22, HostKey('ssh-ed25519', sys.argv[3]), Path(sys.argv[2]))"
    )
    children = [subprocess.Popen([sys.executable, "-c", program, name, str(pins), A.text]) for name in ("a", "b")]
    assert [child.wait() for child in children] == [0, 0]
    assert len(pins.read_text(encoding="utf-8").splitlines()) == 20
