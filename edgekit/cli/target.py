"""``edgekit target``: which devices there are, and what their files say.

Finding and reading target files is the work of ``edgekit.targets``; no device is reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli.command import command, command_group
from edgekit.cli.options import TARGET
from edgekit.ui import Output, Result, Table

if TYPE_CHECKING:
    from edgekit.targets import TargetFile
    from edgekit.types import Target


@command_group
def target() -> None:
    """List and show target devices.

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
