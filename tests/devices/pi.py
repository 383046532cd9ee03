"""A Raspberry Pi 4 for tests: Debian's own programs for aarch64, reached by this machine's OpenSSH server on 127.0.0.1.

The file tree is made from Debian packages and kept as an archive under ~/.cache/edgekit-tests; its programs are carried
out by qemu, hundreds of times slower than a board would: for function, never for timing.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit.files import locked
from tests.devices.phone import CACHE_FOLDER
from tests.devices.sshd import MISSING, PROGRAM, free_port, make_key, public_part

USER, USER_ID = "pi", 1000
FETCH_SECONDS = 240
START_SECONDS = 20.0
STOP_SECONDS = 20.0
CORES = 4

PACKAGES = ("bash", "coreutils", "dash", "findutils", "grep", "libstdc++6", "python3", "sed", "util-linux")
"""What is wanted of Debian's arm64 packages; those that they need come with them."""
EMULATOR_PACKAGE = "qemu-user-static"
EMULATOR = "usr/libexec/qemu-aarch64"
UNWANTED = re.compile(
    r"usr/(share|games|include)/.*|var/.*|usr/lib/(systemd|tmpfiles\.d|udev|python3\.\d+/(test|pydoc_data|lib2to3))/.*"
    r"|usr/lib/[^/]+/(gconv|perl-base|perl5)/.*"
)
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "sbin": "usr/sbin"}
FOLDERS = ("dev", "etc", "home/pi", "proc", "root", "sys", "tmp", "usr/bin", "usr/lib", "usr/libexec", "usr/sbin")
WRITABLE = ("tmp", "var/tmp")

VCGENCMD = """\
#!/bin/sh
case "$1" in
    get_throttled) echo "throttled=$(cat /var/lib/board/throttled)" ;;
    measure_temp) echo "temp=$(($(cat /sys/class/thermal/thermal_zone0/temp) / 1000)).2'C" ;;
    *) echo 'error=1 error_msg="Command not registered"' ;;
esac
"""

# What the kernel of a Pi 4 says; ONNX Runtime crashes on that of another architecture.
CPU_INFO = (
    "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
        for core in range(CORES)
    )
    + "Revision\t: c03114\nSerial\t\t: 10000000deadbeef\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)
CLOCK = {
    "scaling_governor": "ondemand",
    "scaling_cur_freq": "1800000",
    "scaling_min_freq": "600000",
    "scaling_max_freq": "1800000",
    "cpuinfo_min_freq": "600000",
    "cpuinfo_max_freq": "1800000",
}

FILES = {
    "etc/passwd": "root:x:0:0::/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
    f"{USER}:x:{USER_ID}:{USER_ID}::/home/{USER}:/bin/bash\n",
    "etc/group": f"root:x:0:\nnogroup:x:65534:\n{USER}:x:{USER_ID}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/hosts": "127.0.0.1 localhost raspberrypi\n",
    "var/lib/board/cpuinfo": CPU_INFO,
    "var/lib/board/throttled": "0x0\n",
    "sys/firmware/devicetree/base/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48200\n",
    **{f"sys/devices/system/cpu/{name}": f"0-{CORES - 1}\n" for name in ("possible", "present", "online")},
    **{
        f"sys/devices/system/cpu/cpu{core}/cpufreq/{name}": f"{value}\n"
        for core in range(CORES)
        for name, value in CLOCK.items()
    },
}
SCRIPTS = {"usr/bin/vcgencmd": VCGENCMD}

# Of aarch64 programs (the first bytes of an ELF file for it), whatever its ABI and type are; F opens the emulator at
# once, so that it is found from within any file tree.
RULE = (
    r":{name}:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{emulator}:F"
)

# All mounts and processes belong to the first process here and vanish with it. A folder in which sshd locks users must
# not lie below one that others may write to, as /tmp is: hence /mnt.
BOOT = """\
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir /run/sshd
[ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf %s "$3" >/proc/sys/fs/binfmt_misc/register
mount --bind "$1" /mnt
mount -t proc proc /mnt/proc
mount --bind /mnt/var/lib/board/cpuinfo /mnt/proc/cpuinfo
mount --bind /mnt/var/lib/board/boot_id /mnt/proc/sys/kernel/random/boot_id
mount --bind /dev /mnt/dev
mount --bind /mnt/etc/passwd /etc/passwd
mount --bind /mnt/etc/group /etc/group
hostname raspberrypi
exec "$4" -D -e -f "$2"
"""

# Mounted once more where it is not: rules outlive the last mount on kernels before 6.7.
FORGET = """\
[ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
[ ! -e "/proc/sys/fs/binfmt_misc/$1" ] || echo -1 >"/proc/sys/fs/binfmt_misc/$1"
"""

SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile /mnt/etc/authorized_keys
AllowUsers {user}
ChrootDirectory /mnt
SetEnv QEMU_CPU=cortex-a72 PYTHONPYCACHEPREFIX=/tmp/pycache
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
UseDNS no
MaxStartups 100
MaxSessions 100
PidFile none
"""

APT_CONFIG = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "{folder}/state";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
"""


class NoPiError(Exception):
    """A Pi cannot be made on this machine; the message is the reason to skip with."""


@dataclass(frozen=True)
class Pi:
    """A Pi that is on: it lets ``pi`` in with ``client_key`` and nobody else, and has the file tree ``root``."""

    folder: Path
    port: int

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def client_key(self) -> Path:
        return self.folder / "client_key"

    @property
    def address(self) -> str:
        """As target files hold it."""
        return f"{USER}@127.0.0.1:{self.port}"

    @property
    def public_key(self) -> str:
        """Its host key as a known_hosts file holds it: kind and text."""
        return public_part(self.folder / "host_key")

    def path(self, target: str) -> Path:
        """Where a file of the Pi lies on this machine."""
        return self.root / target.lstrip("/")


@contextmanager
def running_pi(folder: Path) -> Iterator[Pi]:
    """A Pi of one's own in a new folder, switched off in the end with all that runs on it. Raises NoPiError where it
    cannot be made."""
    packed = archive()
    with tarfile.open(packed) as content:
        content.extractall(folder / "root", filter="fully_trusted", numeric_owner=True)
    (folder / "root/var/lib/board/boot_id").write_text(f"{uuid.uuid4()}\n")
    make_key(folder / "host_key")
    make_key(folder / "client_key")
    shutil.copy(folder / "client_key.pub", folder / "root/etc/authorized_keys")
    rule = f"edgekit-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    pi = Pi(folder, free_port())
    process = boot(pi, rule)
    try:
        wait_until_it_answers(pi, process)
        yield pi
    finally:
        process.kill()
        process.wait(STOP_SECONDS)
        subprocess.run(["unshare", "--mount", "/bin/sh", "-ec", FORGET, "sh", rule], check=True, timeout=STOP_SECONDS)


def boot(pi: Pi, rule: str) -> subprocess.Popen[bytes]:
    """Start its server, as the first process of a machine of its own."""
    config = pi.folder / "sshd_config"
    config.write_text(SSHD_CONFIG.format(port=pi.port, folder=pi.folder, user=USER), encoding="utf-8")
    registered = RULE.format(name=rule, emulator=pi.root / EMULATOR)
    namespaces = ("--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
    script = ("/bin/sh", "-ec", BOOT, "sh", str(pi.root), str(config), registered, str(PROGRAM))
    with (pi.folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["unshare", *namespaces, "--", *script], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def wait_until_it_answers(pi: Pi, process: subprocess.Popen[bytes]) -> None:
    """Return when a program for aarch64 has run over ssh. Raises NoPiError if none does within `START_SECONDS`."""
    command = ["ssh", "-F", "none", "-i", str(pi.client_key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    command += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-p", str(pi.port)]
    deadline = time.monotonic() + START_SECONDS
    said = ""
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            asked = subprocess.run(
                [*command, f"{USER}@127.0.0.1", "uname -m"], capture_output=True, text=True, timeout=START_SECONDS
            )
            if asked.stdout.strip() == "aarch64":
                return
            said = asked.stderr.strip()
        time.sleep(0.05)
    log = (pi.folder / "log").read_text(encoding="utf-8", errors="replace").strip()
    raise NoPiError(f"the stand-in for a Raspberry Pi does not answer here: {said[-200:]}; {log[-300:]}")


def archive() -> Path:
    """The packed tree, made first if this recipe was not packed before. Raises NoPiError with the reason."""
    refuse_unable_machine()
    recipe = repr((PACKAGES, EMULATOR_PACKAGE, EMULATOR, UNWANTED.pattern, LINKS, FOLDERS, WRITABLE, FILES, SCRIPTS))
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    kept = CACHE_FOLDER / f"pi-{key}.tar"
    with locked(kept):
        if not kept.exists():
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                pack([*fetch_for_arm(folder), fetch_emulator(folder)], kept)
    return kept


def refuse_unable_machine() -> None:
    """Raise NoPiError where a Pi could not be made or entered."""
    if os.geteuid() != 0:
        raise NoPiError("a file tree of another architecture is entered by root only")
    if PROGRAM is None:
        raise NoPiError(MISSING)
    for program in ("apt-get", "dpkg-deb", "mount", "ssh", "unshare"):
        if shutil.which(program) is None:
            raise NoPiError(f"the stand-in for a Raspberry Pi is made with {program}, which is not installed")
    if "binfmt_misc" not in Path("/proc/filesystems").read_text(encoding="utf-8"):
        raise NoPiError("this machine's kernel runs no programs of other architectures (binfmt_misc)")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode != 0:
        raise NoPiError("this machine does not allow namespaces")


def fetch_for_arm(folder: Path) -> list[Path]:
    """Fetch the packages and all that they need from this machine's own sources, by an apt that knows nothing of what
    is installed here and leaves no trace of itself."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "apt.conf").write_text(APT_CONFIG.format(folder=folder), encoding="utf-8")
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    # A source that has nothing for arm64 is no failure: what counts is whether the packages come.
    run_apt(["update"], folder, environment)
    wanted = ["--download-only", "--no-install-recommends", "--yes", "install", *PACKAGES]
    if said := run_apt(wanted, folder, environment):
        raise NoPiError(f"packages for arm64 cannot be fetched: {said}")
    return sorted((folder / "cache/archives").glob("*.deb"))


def fetch_emulator(folder: Path) -> Path:
    """The package with the emulator for this machine; it is not installed."""
    if said := run_apt(["-o", "APT::Sandbox::User=root", "download", EMULATOR_PACKAGE], folder, os.environ):
        raise NoPiError(f"the package {EMULATOR_PACKAGE} cannot be fetched: {said}")
    return next(folder.glob(f"{EMULATOR_PACKAGE}_*.deb"))


def run_apt(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Nothing if it went well, else the end of what apt said."""
    try:
        done = subprocess.run(
            ["apt-get", "-q", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"apt-get took longer than {FETCH_SECONDS} s"
    return "" if done.returncode == 0 else (done.stderr.strip()[-300:] or f"exit code {done.returncode}")


def pack(packages: list[Path], destination: Path) -> None:
    """Write the archive; under its name there is a whole one or none."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = destination.with_suffix(f".{os.getpid()}")
    with tarfile.open(unfinished, "w") as packed:
        for folder in FOLDERS:
            add(packed, tarfile.TarInfo(folder), 0o755, tarfile.DIRTYPE)
        for folder in WRITABLE:
            add(packed, tarfile.TarInfo(folder), 0o1777, tarfile.DIRTYPE)
        for name, target in LINKS.items():
            link = tarfile.TarInfo(name)
            link.linkname = target
            add(packed, link, 0o777, tarfile.SYMTYPE)
        for package in packages:
            take(package, packed)
        for mode, files in ((0o644, FILES), (0o755, SCRIPTS)):
            for name, text in files.items():
                add(packed, tarfile.TarInfo(name), mode, tarfile.REGTYPE, text.encode())
    unfinished.replace(destination)


def take(package: Path, packed: tarfile.TarFile) -> None:
    """Add what the Pi has of a package: of the emulator's only that for aarch64."""
    content = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True, timeout=120
    ).stdout
    is_emulator = package.name.startswith(EMULATOR_PACKAGE)
    with tarfile.open(fileobj=io.BytesIO(content)) as unpacked:
        for member in unpacked:
            name = place(member.name.removeprefix("./").rstrip("/"))
            if is_emulator:
                name = EMULATOR if name == "usr/bin/qemu-aarch64-static" else ""
            if not name or member.isdir() or UNWANTED.fullmatch(name) or name in FILES:
                continue
            member.name = name
            member.mode &= 0o755
            if member.islnk():
                member.linkname = place(member.linkname.removeprefix("./"))
            packed.addfile(member, unpacked.extractfile(member) if member.isreg() else None)


def place(name: str) -> str:
    """Where a file of a package lies in a tree whose /bin and /lib are links."""
    top, separator, rest = name.partition("/")
    return f"{LINKS[top]}/{rest}" if separator and top in LINKS else name


def add(packed: tarfile.TarFile, member: tarfile.TarInfo, mode: int, kind: bytes, content: bytes = b"") -> None:
    """Add something that no package holds; what is in the user's home is the user's."""
    member.mode, member.type, member.size = mode, kind, len(content)
    if member.name.startswith(f"home/{USER}"):
        member.uid = member.gid = USER_ID
    packed.addfile(member, io.BytesIO(content))
