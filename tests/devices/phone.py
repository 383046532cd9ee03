"""A phone for tests: a file tree with Android's shell (mksh), commands (toybox) and folders, entered by chroot.

The tree is made from Debian packages and kept as an archive under ~/.cache/edgekit-tests. How a host talks to it is not
known here (`adbd.Adbd`). Its commands are those of this machine's processor: for function, never for timing.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edgekit.files import locked

SHELL_USER = 2000
DOWNLOAD_SECONDS = 120
# Found once: tests of adb give themselves another home.
CACHE_FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit-tests"

# Debian's toybox has no dd; Android's has.
PACKAGES = ("coreutils", "libc6", "libcrypt1", "libgcc-s1", "libstdc++6", "mksh", "toybox")
PROGRAMS = {"dd": "system/bin/dd", "mksh": "system/bin/sh", "toybox": "system/bin/toybox"}
LIBRARY = re.compile(r"(usr/)?lib(64|32)?/(?!.*(gconv|audit|security)/).*\.so[.0-9]*")
LINKS = {"lib": "usr/lib", "lib64": "usr/lib64", "sdcard": "data/media", "system/lib64": "../usr/lib"}
FOLDERS = ("data/local", "data/media", "dev", "proc", "system/bin", "usr/lib", "usr/lib64", "vendor/lib64")

PROPERTIES = """\
ro.product.model=EdgeKit Phone
ro.product.name=edgekit_phone
ro.product.manufacturer=edgekit
ro.product.cpu.abi=arm64-v8a
ro.build.version.sdk=34
ro.build.version.release=14
ro.soc.model=SM8550
ro.soc.manufacturer=QTI
ro.serialno=EDGEKIT01
sys.boot_completed=1
"""

# What arm64 kernels say: no "model name" line, which is what x86 has.
CPU_INFO = "".join(
    f"processor\t: {core}\nBogoMIPS\t: 38.40\nFeatures\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\n"
    f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0xd4d\nCPU revision\t: 1\n\n"
    for core in range(8)
)

GETPROP = """\
#!/system/bin/sh
if [ -n "$1" ]; then
    while IFS='=' read -r name value; do [ "$name" = "$1" ] && echo "$value"; done </system/build.prop
else
    while IFS='=' read -r name value; do echo "[$name]: [$value]"; done </system/build.prop
fi
exit 0
"""

DUMPSYS = """\
#!/system/bin/sh
case "$1" in
    thermalservice) echo 'IsStatusOverride: false'; echo 'Thermal Status: 0' ;;
    battery) echo 'Current Battery Service state:'; echo '  level: 87'; echo '  temperature: 285' ;;
    *) echo "Can't find service: $1"; exit 1 ;;
esac
"""

FILES = {
    "etc/passwd": "root:x:0:0::/:/system/bin/sh\nshell:x:2000:2000::/:/system/bin/sh\n",
    "etc/group": "root:x:0:\nshell:x:2000:\n",
    "system/build.prop": PROPERTIES,
    "kernel/cpuinfo": CPU_INFO,
    "sys/class/thermal/thermal_zone0/type": "cpu-1-0\n",
    "sys/class/thermal/thermal_zone0/temp": "41300\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1190400\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2016000\n",
}
SCRIPTS = {"system/bin/getprop": GETPROP, "system/bin/dumpsys": DUMPSYS}

# The mounts belong to the command and vanish with it: nothing is left to unmount, however a test ends.
ENTER = """\
mount --rbind /proc "$1/proc" && mount --bind /dev "$1/dev" &&
mount --bind "$1/kernel/cpuinfo" "$1/proc/cpuinfo" &&
mount --bind "$1/kernel/boot_id" "$1/proc/sys/kernel/random/boot_id" &&
chroot=$(command -v chroot) && PATH=/product/bin:/system/bin:/vendor/bin &&
exec "$chroot" --userspec=2000:2000 --groups= "$1" /system/bin/sh -c "$2"
"""


class NoPhoneError(Exception):
    """A phone cannot be made on this machine; the message is the reason to skip with."""


@dataclass(frozen=True)
class Phone:
    """Where the device's files lie, and how a command is run among them.

    Where the tests are root, ``root`` is entered by chroot as Android's shell user; otherwise commands are run by this
    machine's shell, and ``root`` is only the folder that they start in.
    """

    root: Path
    is_entered: bool
    shortcoming: str = ""
    """Why this one is not entered."""
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)
    variables: dict[str, str] = field(default_factory=dict, compare=False)
    """What commands find in their environment besides; for a test to change."""

    @property
    def folder(self) -> PurePosixPath:
        """/data/local/tmp, as commands on the device name it."""
        return PurePosixPath("/data/local/tmp" if self.is_entered else str(self.root / "data/local/tmp"))

    @property
    def environment(self) -> dict[str, str]:
        """What commands find in their environment; ``PHONE`` marks all processes of this phone."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": "/",
            "ANDROID_ROOT": "/system",
            "ANDROID_DATA": "/data",
            "TMPDIR": str(self.folder),
            "PHONE": self.identity,
            **self.variables,
        }

    def argv(self, command: bytes) -> list[str | bytes]:
        """How this machine runs a shell line on the phone."""
        if not self.is_entered:
            # Like Android's shell, and unlike dash, bash becomes the last command: a hang-up then reaches that.
            return [shutil.which("bash") or "/bin/sh", "-c", command]
        return ["unshare", "--mount", "/bin/sh", "-c", ENTER, "sh", str(self.root), command]

    def path(self, target: bytes | str) -> Path:
        """Where a file of the phone lies on this machine; what leads out of the phone leads to its root."""
        if not self.is_entered:
            return Path(os.fsdecode(target))
        inside = os.path.normpath("/" + os.fsdecode(target))
        return self.root / inside.lstrip("/")

    def give_to_shell_user(self, path: Path) -> None:
        """Make the user of the commands the owner of a file."""
        if self.is_entered:
            os.chown(path, SHELL_USER, SHELL_USER)

    def processes(self) -> Iterator[int]:
        """Ids of all processes that were started on the phone, whatever became of the link."""
        marker = f"PHONE={self.identity}".encode()
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)

    def reboot(self) -> None:
        """End everything that runs on the phone, and give it another boot id."""
        for process_id in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        (self.root / "kernel/boot_id").write_text(f"{uuid.uuid4()}\n")


@contextmanager
def phone_at(root: Path) -> Iterator[Phone]:
    """An entered phone in a new folder, ended with all its processes. Raises NoPhoneError where it cannot be made."""
    with tarfile.open(archive()) as packed:
        packed.extractall(root, filter="fully_trusted")
    phone = Phone(root, is_entered=True)
    make_at_home(phone)
    try:
        yield phone
    finally:
        phone.reboot()


@contextmanager
def plain_phone_at(root: Path, shortcoming: str) -> Iterator[Phone]:
    """A phone that is only a folder, for machines on which the tests are not root."""
    for folder in ("data/local/tmp", "kernel"):
        (root / folder).mkdir(parents=True)
    phone = Phone(root, is_entered=False, shortcoming=shortcoming)
    try:
        yield phone
    finally:
        phone.reboot()


def make_at_home(phone: Phone) -> None:
    """What the archive cannot hold: owners, the boot id, and a link for each command that toybox is."""
    home = phone.root / "data/local/tmp"
    home.mkdir(exist_ok=True)
    home.chmod(0o771)
    phone.give_to_shell_user(home)
    phone.reboot()
    listed = subprocess.run(["chroot", phone.root, "/system/bin/toybox"], capture_output=True, text=True, timeout=20)
    if listed.returncode != 0:
        raise NoPhoneError(f"toybox does not run on this machine: {listed.stderr.strip()}")
    for command in listed.stdout.split():
        if not (phone.root / "system/bin" / command).exists():
            (phone.root / "system/bin" / command).symlink_to("toybox")


def archive() -> Path:
    """The packed tree, made first if this recipe was not packed before. Raises NoPhoneError with the reason."""
    refuse_unable_machine()
    recipe = repr((PACKAGES, PROGRAMS, LIBRARY.pattern, LINKS, FOLDERS, FILES, SCRIPTS, platform.machine()))
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    kept = CACHE_FOLDER / f"phone-{key}.tar"
    with locked(kept):
        if not kept.exists():
            with tempfile.TemporaryDirectory() as folder:
                pack(download(Path(folder)), kept)
    return kept


def refuse_unable_machine() -> None:
    """Raise NoPhoneError where a tree could not be made or entered."""
    if os.geteuid() != 0:
        raise NoPhoneError("entering a phone's file tree needs root")
    for program in ("apt-get", "chroot", "dpkg-deb", "unshare"):
        if shutil.which(program) is None:
            raise NoPhoneError(f"a phone's file tree is made with {program}, which is not installed")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        raise NoPhoneError("this machine does not allow mount namespaces")


def download(folder: Path) -> list[Path]:
    """Fetch the packages, without installing them."""
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
    try:
        fetched = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise NoPhoneError(f"the packages of a phone did not come within {DOWNLOAD_SECONDS} s") from error
    if fetched.returncode != 0:
        raise NoPhoneError(f"the packages of a phone cannot be fetched: {fetched.stderr.strip()[-300:]}")
    return sorted(folder.glob("*.deb"))


def pack(packages: list[Path], destination: Path) -> None:
    """Write the archive; under its name there is a whole one or none."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = destination.with_suffix(f".{os.getpid()}")
    with tarfile.open(unfinished, "w") as packed:
        for folder in FOLDERS:
            add(packed, tarfile.TarInfo(folder), 0o755, tarfile.DIRTYPE)
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
    """Add what a phone has of a package: programs where Android keeps them, and the libraries that they need."""
    content = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True, timeout=60
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as unpacked:
        for member in unpacked:
            name = member.name.removeprefix("./")
            if member.isfile() and Path(name).name in PROGRAMS and Path(name).parent.name == "bin":
                member.name = PROGRAMS[Path(name).name]
            elif LIBRARY.fullmatch(name) and (member.isfile() or member.issym()):
                member.name = name if name.startswith("usr/") else f"usr/{name}"
            else:
                continue
            packed.addfile(member, unpacked.extractfile(member) if member.isfile() else None)


def add(packed: tarfile.TarFile, member: tarfile.TarInfo, mode: int, kind: bytes, content: bytes = b"") -> None:
    """Add something that no package holds."""
    member.mode, member.type, member.size = mode, kind, len(content)
    packed.addfile(member, io.BytesIO(content))
