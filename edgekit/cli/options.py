"""The types of option values that click does not have: shapes, lists of numbers, runs, targets; and shared options.

Text becomes a checked value here, or a usage error that says what is allowed; no file is opened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Function = TypeVar("Function", bound=Callable[..., Any])

MAX_DIMENSION = 65536
RUNS_FOLDER = Path("runs")
"""Where runs are kept, below the current folder."""

RUNTIME = click.Choice(["onnx", "tflite"])
PROVIDER = click.Choice(["cpu", "nnapi"])
NUMBER_FORMAT = click.Choice(["fp32", "int8"])
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


OTHER_SETTINGS = {
    "warmup_share": "part of the schedule that the small network shares with the dense one",
    "search_share": "part in which its gates are learned",
    "trial_share": "part in which candidates are compared",
    "gate_learning_rate": "learning rate of the gates",
    "distillation": "weight of the dense network as a teacher, 0 to 1",
    "sweep_choice": "of a sweep: the model nearest to the budget, or not-above it",
    "max_corrections": "most times that the choice is timed and made again",
    "checkpoint_seconds": "least time between two checkpoints, seconds",
}
"""Settings of `edgekit train` that have no option of their own, and what they mean; kept here so that shells complete
them without importing torch."""


class ShapeType(click.ParamType[tuple[int, ...]]):
    """Sizes joined by ``x``, such as ``1x28x28``; ``dimensions`` says how many there may be."""

    def __init__(self, dimensions: tuple[int, ...], form: str) -> None:
        self.name = form
        self._dimensions = dimensions

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The form as it is to be written, the ``x`` in lower case."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The sizes, each from 1 to 65536; a usage error otherwise."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        sizes = tuple(int(part) for part in parts if re.fullmatch(r"[0-9]{1,6}", part))
        if len(sizes) != len(parts) or len(sizes) not in self._dimensions:
            self.fail(f"{value!r} has not the form {self.name}", param, ctx)
        if not all(1 <= size <= MAX_DIMENSION for size in sizes):
            self.fail(f"{value!r}: every size is from 1 to {MAX_DIMENSION}", param, ctx)
        return sizes


class NumberListType(click.ParamType[tuple[float, ...]]):
    """Numbers above 0 joined by commas, such as ``5,20,80``."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers in the order given; a usage error if one is not finite and above 0."""
        if isinstance(value, tuple):
            return value
        return tuple(self._number(part, param, ctx) for part in str(value).split(","))

    def _number(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(text)
        except ValueError:
            self.fail(f"{text!r} is no number: write numbers joined by commas, such as 5,20,80", param, ctx)
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{text!r}: every number is finite and above 0", param, ctx)
        return number


class RunNameType(click.ParamType[str]):
    """The name of a run, which is the name of its directory: it must not lead out of ``runs``."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name; a usage error for anything but letters, digits, dots, dashes and underscores."""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", str(value)):
            self.fail(f"{value!r}: a name is 1 to 128 letters, digits, '.', '-' or '_', the first no '.'", param, ctx)
        return str(value)


class SettingType(click.ParamType[tuple[str, str]]):
    """``NAME=VALUE``: a setting for which there is no option of its own."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The name, with underscores, and the text of the value; a usage error without an equals sign."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} has not the form NAME=VALUE", param, ctx)
        return name.strip().replace("-", "_"), text.strip()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names, each with its equals sign."""
        from click.shell_completion import CompletionItem

        words = {f"{name.replace('_', '-')}=": text for name, text in OTHER_SETTINGS.items()}
        wanted = incomplete.replace("_", "-")
        return [CompletionItem(word, help=text) for word, text in words.items() if word.startswith(wanted)]


class TargetType(click.ParamType[str]):
    """The name of a target, or its file; found when the command runs, so that the error can name close matches."""

    name = "target"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The targets that exist, and files."""
        from click.shell_completion import CompletionItem

        from edgekit import targets

        names = [file.name for file in targets.list_all()]
        items = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return items or [CompletionItem(incomplete, type="file")]


class RunType(click.ParamType[Path]):
    """A run by the name of its directory below ``runs``, or by the directory itself."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The directory of the run; a usage error with the nearest names if there is none."""
        for directory in (RUNS_FOLDER / value, Path(value)):
            if directory.is_dir():
                return directory
        from difflib import get_close_matches

        near = get_close_matches(str(value), _run_names(), n=3)
        advice = f"did you mean {' or '.join(near)}?" if near else "edgekit train makes runs"
        self.fail(f"there is no run {str(value)!r} here or in ./{RUNS_FOLDER}; {advice}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The runs that exist, or directories."""
        from click.shell_completion import CompletionItem

        items = [CompletionItem(name) for name in _run_names() if name.startswith(incomplete)]
        return items or [CompletionItem(incomplete, type="dir")]


def _run_names() -> list[str]:
    return sorted(path.name for path in RUNS_FOLDER.glob("*") if path.is_dir())


def complete_path(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Any file or folder, by the shell itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_data(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The data sets that are known by name, else files and folders."""
    from click.shell_completion import CompletionItem

    from edgekit.data.names import known_names

    items = [CompletionItem(name) for name in known_names() if incomplete and name.startswith(incomplete)]
    return items or complete_path(ctx, param, incomplete)


INPUT_SHAPE = ShapeType((1, 3), "CHANNELSxHEIGHTxWIDTH")
IMAGE_SIZE = ShapeType((2,), "HEIGHTxWIDTH")
NUMBERS = NumberListType()
RUN = RunType()
RUN_NAME = RunNameType()
SETTING = SettingType()
TARGET = TargetType()


def target_option(function: Function) -> Function:
    """--target, the local machine by default."""
    text = "Device: a name of `edgekit target list`, or a file."
    return click.option("--target", type=TARGET, default="cpu", show_default=True, help=text)(function)


def runtime_option(function: Function) -> Function:
    """--runtime, one of them."""
    return click.option(
        "--runtime", type=RUNTIME, default="onnx", show_default=True, help="What runs the model on the device."
    )(function)


def provider_option(function: Function) -> Function:
    """--provider, that of the target file by default."""
    text = "What the runtime hands the model to; that of the target if not given."
    return click.option("--provider", type=PROVIDER, help=text)(function)


def format_option(function: Function) -> Function:
    """--format, the number format of weights and activations."""
    return click.option(
        "--format", "number_format", type=NUMBER_FORMAT, default="fp32", show_default=True, help="Number format."
    )(function)


def model_option(*, required: bool) -> Callable[[Function], Function]:
    """--model: a name, a factory, or a network file."""
    text = "A name such as resnet14, package.module:factory, file.py:factory, or a network's .json file."
    return click.option("--model", required=required, shell_complete=complete_path, help=text)


def given_by_user(context: click.Context) -> set[str]:
    """Names of the parameters that are on the command line: the others hold their defaults."""
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
