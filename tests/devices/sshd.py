"""A stand-in for a device behind SSH: OpenSSH's own server on 127.0.0.1, run by and for the current user.

Its keys, configuration and home are in a folder of the test's; nothing below /etc is read or written.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MISSING = "needs OpenSSH's server: apt-get install --no-install-recommends openssh-server"

_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
HostKey {folder}/host_key_rsa
AuthorizedKeysFile {folder}/client_key.pub
AllowUsers {user}
SetEnv HOME={folder}/home
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
UseDNS no
MaxStartups 100
MaxSessions 100
PidFile none
"""
_START_SECONDS = 10.0


@dataclass
class Sshd:
    """A server in ``folder``: it lets ``user`` in with ``client_key`` and nobody else. It has two host keys, as most
    have; the one of Ed25519 is what OpenSSH asks for first."""

    folder: Path
    port: int = 0
    user: str = field(default_factory=getpass.getuser)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def client_key(self) -> Path:
        return self.folder / "client_key"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def public_key(self) -> str:
        """Its first host key as a known_hosts file holds it: kind and text."""
        return public_part(self.folder / "host_key")

    @property
    def fingerprint(self) -> str:
        told = subprocess.run(["ssh-keygen", "-lf", self.folder / "host_key.pub"], capture_output=True, check=True)
        return told.stdout.decode().split()[1]

    def start(self) -> None:
        """Start to listen, on the port it had before if it had one."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # which a server run by root insists on
        for _ in range(5):
            port = self.port or free_port()
            (self.folder / "sshd_config").write_text(
                _CONFIG.format(port=port, folder=self.folder, user=self.user), encoding="utf-8"
            )
            with (self.folder / "log").open("ab") as log:
                command = [str(PROGRAM), "-D", "-e", "-f", str(self.folder / "sshd_config")]
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if _listens(port, self._process):
                self.port = port
                return
            self.stop()
        raise RuntimeError((self.folder / "log").read_text(encoding="utf-8"))

    def stop(self) -> None:
        """Stop to listen. Connections that are open go on until they are closed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def new_host_key(self) -> None:
        """What setting the device up anew would do; holds from the next start on."""
        for name in ("host_key", "host_key_rsa"):
            (self.folder / name).unlink()
            (self.folder / f"{name}.pub").unlink()
        make_key(self.folder / "host_key")
        make_key(self.folder / "host_key_rsa", "rsa")


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> None:
    size = ["-b", "2048"] if kind == "rsa" else []  # the smallest and quickest that is accepted
    command = ["ssh-keygen", "-q", "-t", kind, *size, "-N", passphrase, "-C", "edgekit-test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def public_part(path: Path) -> str:
    """Kind and text of a key that `make_key` made."""
    return " ".join(path.with_name(f"{path.name}.pub").read_text(encoding="utf-8").split()[:2])


@contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """A server with keys of its own, stopped in the end."""
    (folder / "home").mkdir(parents=True)
    make_key(folder / "host_key")
    make_key(folder / "host_key_rsa", "rsa")
    make_key(folder / "client_key")
    server = Sshd(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.005)
    return False
