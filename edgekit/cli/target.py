"""``edgekit target``: which devices there are, what their files say, and whether they can be measured.

Finding and reading target files is the work of ``edgekit.targets``, reaching devices that of ``edgekit.devices``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgekit.cli.command import command, command_group
from edgekit.cli.options import EXISTING_FILE, TARGET
from edgekit.ui import Output, Problem, Result, Table

if TYPE_CHECKING:
    from edgekit.devices.ssh import Offer
    from edgekit.pipeline.target_check import RuntimeCheck, TargetCheck
    from edgekit.targets import TargetFile
    from edgekit.types import Target


@command_group
def target() -> None:
    """List, show, check and set up target devices.

    A target is a TOML file that says how a device is reached, which runtimes it has and which number formats they
    execute. Files in ./targets are found by their name, before those that edgekit ships.
    """


@target.add_command
@command
def list_command(_ui: Output) -> Result:
    """List the targets that can be named."""
    from edgekit import targets

    files = targets.list_all()
    table = Table(("name", "origin", "transport", "runtimes", "description"), tuple(_row(file) for file in files))
    return Result(data={"targets": [_listed(file) for file in files]}, text=(table,))


def _listed(file: TargetFile) -> dict[str, object]:
    return {
        "name": file.name,
        "origin": file.origin,
        "path": file.path,
        "target": file.target,
        "problem": file.problem or None,
    }


def _row(file: TargetFile) -> tuple[str, ...]:
    if file.target is None:
        return (file.name, file.origin, "-", "-", f"cannot be used: {file.problem}")
    return (file.name, file.origin, file.target.transport, ", ".join(file.target.runtimes), file.target.description)


@target.add_command
@command
@click.argument("name", type=TARGET)
def show(_ui: Output, name: str) -> Result:
    """Show what the target NAME, a name or a file, says."""
    from edgekit import targets

    found = targets.find(name)
    return Result(data={"target": found}, text=(Table(("key", "value"), _facts(found)),))


def _facts(found: Target) -> tuple[tuple[str, str], ...]:
    runtimes = (
        (f"runtime {name}", f"{options.threads} thread(s), provider {options.provider}, {', '.join(options.formats)}")
        for name, options in found.runtimes.items()
    )
    return (
        ("name", found.name),
        ("description", found.description),
        ("transport", f"{found.transport} {found.address}".rstrip()),
        *runtimes,
        ("storage", f"{found.storage_bytes} bytes" if found.storage_bytes else "not limited"),
        ("throttling", found.throttling),
    )


@target.add_command
@command
@click.argument("name", type=TARGET)
def check(ui: Output, name: str) -> Result:
    """Connect to the target NAME, run a tiny model in each of its runtimes, and say what would spoil timings."""
    from edgekit import targets
    from edgekit.pipeline.target_check import check_target

    with ui.progress() as progress:
        found = check_target(targets.find(name), progress)
    problems = tuple(Problem("device", row.problem, row.hint or None) for row in found.runtimes if not row.is_ok)
    columns = ("runtime", "provider", "version", "us", "kernels")
    runtimes = Table(columns, tuple(_checked(row) for row in found.runtimes), right=frozenset({"us"}))
    return Result(
        data={"check": found},
        text=(Table(("key", "value"), _machine_facts(found)), runtimes),
        notes=tuple(f"would spoil timings: {reason}" for reason in found.spoils),
        problems=problems,
        exit_code=4 if problems else 0,
    )


def _checked(row: RuntimeCheck) -> tuple[str, ...]:
    time = "-" if row.latency_us is None else f"{row.latency_us:.1f}"
    return (row.runtime, row.provider, row.version or "does not run", time, ", ".join(row.kernels) or "-")


def _machine_facts(found: TargetCheck) -> tuple[tuple[str, str], ...]:
    machine = found.machine
    heat = "unknown" if machine.temperature_celsius is None else f"{machine.temperature_celsius:.0f} degrees Celsius"
    return (
        ("target", found.target),
        ("model", found.model or "unknown"),
        (
            "processor",
            f"{machine.cpu}, {machine.cores} core(s), {machine.architecture}, {found.user_bits}-bit userland",
        ),
        ("kernel", machine.kernel),
        ("clock", f"{machine.frequency_mhz:.0f} MHz, governor {machine.governor}"),
        ("temperature", heat),
        ("load", f"{machine.load_1min:.2f}"),
    )


@target.add_command
@command
@click.argument("name", type=TARGET)
@click.option("--replace", is_flag=True, help="Accept a key in place of another one that was trusted before.")
def trust(ui: Output, name: str, replace: bool) -> Result:
    """Accept the host key that the target NAME presents, and pin it in this project.

    Compare the fingerprint with the one that the device itself shows: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    """
    from edgekit import targets
    from edgekit.devices import trust as trusted
    from edgekit.devices.ssh import offered_key
    from edgekit.errors import UsageError

    found = targets.find(name)
    if found.transport != "ssh":
        way = "is this machine" if found.transport == "local" else f"is reached by {found.transport}"
        raise UsageError(
            f"target {found.name!r} {way}: there is no host key to trust", "only targets over ssh have one"
        )
    accepted: list[Offer] = []
    while (offer := offered_key(found.name, found.address)).refusal is not None:
        trusted.accept(offer.host, offer.port, offer.key, replace=replace)
        accepted.append(offer)
    keys = [*accepted, *([] if accepted else [offer])]
    data = [
        {"host": key.host, "port": key.port, "fingerprint": key.key.fingerprint, "accepted": key.refusal is not None}
        for key in keys
    ]
    lines = tuple(f"{key.host}:{key.port} {key.key}: {_trusted(key)}" for key in keys)
    return Result(data={"target": found.name, "keys": data}, text=lines)


def _trusted(offer: Offer) -> str:
    if offer.refusal is not None:
        return "accepted"
    return f"trusted by {offer.trusted_by.place}" if offer.trusted_by else "trusted"


@target.add_command
@command
@click.argument("name", type=TARGET)
@click.option(
    "--library",
    type=EXISTING_FILE,
    help="For devices without Python: libonnxruntime.so for it, or the .aar of onnxruntime-android.",
)
def setup(ui: Output, name: str, library: Path | None) -> Result:
    """Install on the target NAME what measures and runs models there: a worker and the target's runtimes.

    The device needs Python 3.9 or newer and no internet: this machine fetches the wheels. Without Python, as on phones,
    a native worker runs models with the --library that you ship. What is there already stays.
    """
    from edgekit import targets
    from edgekit.devices.opening import open_device
    from edgekit.devices.setup import set_up
    from edgekit.devices.setup_native import set_up_native
    from edgekit.errors import UsageError

    found = targets.find(name)
    device = open_device(found)
    ui.resume = "the same command goes on: what was pushed is kept"
    try:
        with ui.progress() as progress:
            if library is not None:
                system: Literal["android", "linux"] = "android" if found.transport == "adb" else "linux"
                installed = set_up_native(device, library, system, progress=progress)
            elif found.transport == "adb":
                raise UsageError(
                    "a phone has no Python: the runtime must be given",
                    f"edgekit target setup {found.name} --library onnxruntime-android.aar",
                )
            else:
                installed = set_up(device, tuple(found.runtimes), progress=progress)
    finally:
        device.close()
    rows = tuple((runtime, wheel) for runtime, wheel in installed.runtimes.items())
    return Result(data={"target": found.name, "installation": installed}, text=(Table(("runtime", "installed"), rows),))
