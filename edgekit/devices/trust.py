"""Which host keys are trusted: those pinned in the project's ``.edgekit/known_hosts``, else the user's own known hosts.

Files in OpenSSH's format are read and written here; fetching the key that a host presents, and checking it while
connecting, is ``ssh``'s affair.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import TrustError
from edgekit.files import locked, read_bounded, write_atomic

PINS = Path(".edgekit/known_hosts")
"""The project's own trusted keys, relative to its folder; they are no secret and may be put under version control."""
DEFAULT_PORT = 22

_FILE_LIMIT_BYTES = 8 * 2**20
_HASHED = "|1|"
_MARKERS = ("@cert-authority", "@revoked")


@dataclass(frozen=True)
class HostKey:
    """A public key as OpenSSH writes it: the ``algorithm``'s name and the base64 text of the key."""

    algorithm: str
    text: str

    @property
    def fingerprint(self) -> str:
        """``SHA256:...`` as ``ssh-keygen -l`` shows it."""
        digest = hashlib.sha256(base64.b64decode(self.text)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.algorithm} {self.fingerprint}"


@dataclass(frozen=True)
class KnownKey:
    """A key found in line ``line`` (from 1) of ``file``; ``marker`` is empty for a plain host key."""

    names: str
    key: HostKey
    marker: Literal["", "@cert-authority", "@revoked"]
    file: Path
    line: int

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Known:
    """What is known of the host ``name``: keys it may present, authorities that may sign for it, keys it must not use.

    ``accepted`` are keys stored for the same host name under the default port: as in OpenSSH they are good enough to
    trust a host on another port, and a different key there is unknown rather than changed.
    """

    name: str
    keys: tuple[KnownKey, ...] = ()
    accepted: tuple[KnownKey, ...] = ()
    authorities: tuple[KnownKey, ...] = ()
    revoked: tuple[KnownKey, ...] = ()

    def trusting(self, key: HostKey) -> KnownKey | None:
        """The entry by which ``key`` is trusted, None if it is not."""
        if any(entry.key == key for entry in self.revoked):
            return None
        return next((entry for entry in self.keys + self.accepted if entry.key == key), None)


def known_name(host: str, port: int) -> str:
    """The name under which OpenSSH stores a host's key: with its port unless that is the default."""
    host = host.lower()
    return host if port == DEFAULT_PORT else f"[{host}]:{port}"


def look_up(host: str, port: int, pins: Path, users_files: Iterable[Path]) -> Known:
    """What is known of ``host`` at ``port``.

    The project's pins win: only where it has none for this host do the user's own files speak. A key revoked in any of
    them stays revoked. Raises BadInputError when a file is no regular file or larger than 8 MiB.
    """
    name = known_name(host, port)
    entries = [entry for file in (pins, *users_files) for entry in _read(file)]
    matching = [entry for entry in entries if _matches(entry.names, name)]
    plain = [entry for entry in matching if not entry.marker]
    revoked = tuple(entry for entry in matching if entry.marker == "@revoked")
    if pinned := tuple(entry for entry in plain if entry.file == pins):
        return Known(name, keys=pinned, revoked=revoked)
    return Known(
        name,
        keys=tuple(plain),
        accepted=tuple(e for e in entries if not e.marker and e.file != pins and _matches(e.names, host.lower())),
        authorities=tuple(entry for entry in matching if entry.marker == "@cert-authority"),
        revoked=revoked,
    )


def _read(file: Path) -> list[KnownKey]:
    if not file.is_file():  # none yet, or /dev/null, which users write there to have none
        return []
    lines = read_bounded(file, _FILE_LIMIT_BYTES).decode(errors="replace").splitlines()
    parsed = (_parse(line, file, number) for number, line in enumerate(lines, 1))
    return [entry for entry in parsed if entry is not None]


def _parse(line: str, file: Path, number: int) -> KnownKey | None:
    """A line's entry; None for comments, and for what cannot be read: OpenSSH goes on behind such lines too."""
    fields = line.split()
    marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", *_MARKERS):
        return None
    names, algorithm, text = fields[:3]
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return KnownKey(names, HostKey(algorithm, text), marker, file, number)  # type: ignore[arg-type]


def _matches(names: str, host: str) -> bool:
    """Whether a line's first field means ``host``: names and patterns by commas, ``!`` denies; or one hashed name."""
    if names.startswith(_HASHED):
        return _matches_hashed(names, host)
    patterns = names.lower().split(",")
    denied = any(_fits(pattern[1:], host) for pattern in patterns if pattern.startswith("!"))
    return not denied and any(_fits(pattern, host) for pattern in patterns)


def _fits(pattern: str, host: str) -> bool:
    # Not fnmatch: brackets stand for themselves here.
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, host) is not None


def _matches_hashed(names: str, host: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in names.removeprefix(_HASHED).split("|"))
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, host.encode(), "sha1"), digest)


def accept(host: str, port: int, key: HostKey, pins: Path = PINS, *, replace: bool = False) -> None:
    """Pin ``key`` for ``host``; doing it again changes nothing.

    Raises TrustError when another key is pinned for it and ``replace`` does not say that it is to go.
    """
    name = known_name(host, port)
    with locked(pins):
        pinned = [entry for entry in _read(pins) if not entry.marker and _matches(entry.names, name)]
        if pinned and all(entry.key == key for entry in pinned):
            return
        if pinned and not replace:
            raise TrustError(
                f"{_change(Known(name, keys=tuple(pinned)), key)}; the trusted key was left as it is",
                "compare the fingerprint with that on the host, and replace the key if they are the same",
            )
        write_atomic(pins, _with_pin(pins, pinned, name, key))


def _with_pin(pins: Path, replaced: Sequence[KnownKey], name: str, key: HostKey) -> bytes:
    lines = read_bounded(pins, _FILE_LIMIT_BYTES).decode(errors="replace").splitlines() if pins.is_file() else []
    for entry in replaced:
        lines[entry.line - 1] = _without(entry, name)
    return "".join(f"{line}\n" for line in [*filter(None, lines), f"{name} {key.algorithm} {key.text}"]).encode()


def _without(entry: KnownKey, name: str) -> str:
    """The line of ``entry`` for its other names; empty if none is left, or if it means ``name`` by a pattern."""
    others = ",".join(other for other in entry.names.split(",") if other.lower() != name)
    return f"{others} {entry.key.algorithm} {entry.key.text}" if others and not _matches(others, name) else ""


def refusal(known: Known, offered: HostKey | None, target: str) -> TrustError:
    """Why the key that a host offered is not trusted, and what to do about it; ``offered`` is None for a certificate.

    ``target`` is the name of the device in whose name edgekit connects: the host is it, or stands on the way to it.
    """
    if offered is None:
        return TrustError(
            f"{target}: the host certificate of {known.name} is not valid, or its key is revoked",
            "ask whoever runs the host; nothing is sent to it until it presents a valid one",
        )
    revoked = next((entry for entry in known.revoked if entry.key == offered), None)
    if revoked is not None:
        return TrustError(
            f"{target}: the host key of {known.name}, {offered}, is revoked in {revoked.place}",
            "somebody may hold a copy of this key: give the host a new one before it is used again",
        )
    if known.keys:
        return TrustError(
            f"{target}: {_change(known, offered)}",
            "another machine may be answering in its place; if the host was set up anew and shows this fingerprint "
            f"(ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub): edgekit target trust {target} --replace",
        )
    return TrustError(
        f"{target}: the host key of {known.name} is not known; it offers {offered}",
        "compare the fingerprint with that on the host (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), then: "
        f"edgekit target trust {target}",
    )


def _change(known: Known, offered: HostKey) -> str:
    trusted = ", ".join(f"{entry.key} ({entry.place})" for entry in known.keys)
    return f"the host key of {known.name} has changed: trusted is {trusted}, offered is {offered}"
