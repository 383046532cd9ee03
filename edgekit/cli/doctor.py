"""``edgekit doctor``: what works on this machine.

What is tried is decided in ``edgekit.doctor``; here it becomes a table and an exit code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.cli.command import command
from edgekit.ui import Output, Problem, Result, Table

if TYPE_CHECKING:
    from edgekit.doctor import Check


@command
def doctor(_ui: Output) -> Result:
    """Check what works on this machine.

    Every runtime is made to run a small model. Exits with 1 if none does: nothing else can work then.
    """
    from edgekit.doctor import diagnose

    diagnosis = diagnose()
    data = {"can_run": diagnosis.can_run, "checks": diagnosis.checks}
    rows = tuple((check.name, check.state, _detail(check)) for check in diagnosis.checks)
    text = (Table(("what", "state", "detail"), rows),)
    if diagnosis.can_run:
        return Result(data, text)
    problem = Problem("no_runtime", "no runtime can run a model on this machine", _first_hint(diagnosis.checks))
    return Result(data, text, problems=(problem,), exit_code=1)


def _detail(check: Check) -> str:
    return f"{check.detail}; {check.hint}" if check.hint else check.detail


def _first_hint(checks: tuple[Check, ...]) -> str | None:
    return next((check.hint for check in checks if check.state == "failed" and check.hint), None)
