"""The documentation speaks of the command line as it is."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from edgekit.cli.main import COMMANDS, group

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_page(name: str) -> None:
    assert (DOCS / "commands" / f"{name}.md").read_text().startswith(f"# edgekit {name}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_speaks_only_of_options_that_exist(name: str) -> None:
    text = (DOCS / "commands" / f"{name}.md").read_text()
    command = group.get_command(click.Context(group), name)
    assert command is not None

    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))

    assert mentioned <= {option for parameter in command.params for option in parameter.opts}
