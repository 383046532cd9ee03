"""``edgekit export``: the model of a run as a file for another runtime or number format.

Writing and checking the file is the work of ``edgekit.pipeline``; here its facts are told.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.command import command
from edgekit.cli.options import NUMBER_FORMAT, OUTPUT_FILE, RUN, RUNTIME
from edgekit.ui import Output, Result, Table

if TYPE_CHECKING:
    from edgekit.types import ExportedModel, NumberFormat, RuntimeName


@command
@click.argument("run", type=RUN)
@click.option("--runtime", type=RUNTIME, help="What runs the model on the device; the run's own if not given.")
@click.option("--format", "number_format", type=NUMBER_FORMAT, help="Number format; the run's own if not given.")
@click.option("--output", type=OUTPUT_FILE, help="The file; exported-FORMAT in the run's models if not given.")
def export(
    ui: Output, run: Path, runtime: RuntimeName | None, number_format: NumberFormat | None, output: Path | None
) -> Result:
    """Write the model that RUN chose as a file for a runtime.

    The file is kept only after it ran in its runtime and agreed with the trained network. RUN is a run's name or
    directory.
    """
    from edgekit.pipeline.export_run import export_run

    with ui.progress() as progress:
        exported = export_run(run, runtime=runtime, number_format=number_format, path=output, progress=progress)
    return Result(data={"model": exported}, text=(Table(("what", "value"), _facts(exported)),))


def _facts(exported: ExportedModel) -> tuple[tuple[str, str], ...]:
    return (
        ("file", exported.path),
        ("size", f"{exported.size_bytes} bytes"),
        ("runtime", f"{exported.runtime}, {exported.number_format}"),
        ("accuracy", f"{exported.accuracy:.2%}"),
        ("same class as trained", f"{exported.top1_agreement:.2%} of images"),
        ("largest difference", f"{exported.max_relative_difference:.2g} of the largest output"),
        ("kernels", ", ".join(dict.fromkeys(exported.kernels))),
    )
