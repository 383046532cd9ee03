"""``edgekit report``: one page about one or more training runs.

The page is drawn by ``edgekit.report``; here run directories are found and its path is told.
"""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.command import command
from edgekit.cli.options import OUTPUT_FILE, RUN
from edgekit.ui import Output, Result


@command
@click.argument("runs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@click.option(
    "--output", type=OUTPUT_FILE, default=Path("report.html"), show_default=True, help="The page; data goes beside it."
)
def report(_ui: Output, runs: tuple[Path, ...], output: Path) -> Result:
    """Write one HTML page about each RUN, a run's name or directory.

    The page needs no network. The same figures are written beside it as CSV and JSON.
    """
    from edgekit.report import write_report

    page = write_report(runs, output)
    written = (page, page.with_suffix(".csv"), page.with_suffix(".json"))
    return Result(data={"page": page, "files": written}, text=tuple(str(path) for path in written))
