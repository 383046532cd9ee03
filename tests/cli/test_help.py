"""All help pages as they are shown, and what shells complete."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from syrupy.assertion import SnapshotAssertion

import edgekit
from edgekit.cli.main import COMMANDS, group
from tests.cli.conftest import Invoke


def command_lines() -> Iterator[tuple[str, ...]]:
    """Every command and sub-command, the program itself first."""
    yield ()
    context = click.Context(group)
    for name in COMMANDS:
        yield (name,)
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, sub) for sub in command.list_commands(context))


@pytest.mark.parametrize("line", list(command_lines()), ids=lambda line: " ".join(line) or "edgekit")
def test_help(line: tuple[str, ...], invoke: Invoke, snapshot: SnapshotAssertion) -> None:
    assert invoke(*line, "--help").stdout == snapshot


@pytest.mark.parametrize("line", list(command_lines()), ids=lambda line: " ".join(line) or "edgekit")
def test_every_command_offers_json(line: tuple[str, ...], invoke: Invoke) -> None:
    assert "--json" in invoke(*line, "--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    command = group.get_command(click.Context(group), name)

    assert command is not None
    assert command.get_short_help_str(limit=200) == COMMANDS[name]


def complete(words: str, folder: Path) -> list[str]:
    """What bash is offered for the last of ``words``."""
    program = "import sys; sys.argv[0] = 'edgekit'; from edgekit.cli.main import main; main()"
    environment = os.environ | {
        "_EDGEKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1 + words.endswith(" ")),
        "PYTHONPATH": str(Path(edgekit.__file__).parents[1]),
    }
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )
    return [line.partition(",")[2] for line in finished.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("edgekit pro", ["profile"]),
        ("edgekit target ", ["check", "list", "setup", "show", "trust"]),
        ("edgekit train --budg", ["--budget"]),
        ("edgekit train --estimator h", ["hard-concrete"]),
        ("edgekit target show c", ["cpu"]),
        ("edgekit report fi", ["first"]),
        ("edgekit train --set search", ["search-share="]),
        ("edgekit train --data fash", ["fashion-mnist"]),
        ("edgekit train --data pho", ["pho"]),
        ("edgekit train --model mod", ["mod"]),
        ("edgekit run model.onnx pho", ["pho"]),
    ],
)
def test_shells_complete_commands_options_and_values(words: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)

    assert complete(words, tmp_path) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    program = "import sys; sys.argv[0] = 'edgekit'; from edgekit.cli.main import main; main()"
    environment = os.environ | {"_EDGEKIT_COMPLETE": f"{shell}_source"}

    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(edgekit.__file__).parents[1],
    )

    assert f"_EDGEKIT_COMPLETE={shell}_complete" in finished.stdout
