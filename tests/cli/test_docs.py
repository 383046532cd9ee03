"""The documentation speaks of the command line as it is."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest

from edgekit.cli.main import COMMANDS, group
from edgekit.cli.options import OTHER_SETTINGS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_page(name: str) -> None:
    assert (DOCS / "commands" / f"{name}.md").read_text().startswith(f"# edgekit {name}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_speaks_only_of_options_that_exist(name: str) -> None:
    text = (DOCS / "commands" / f"{name}.md").read_text()
    command = group.get_command(click.Context(group), name)
    assert command is not None

    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))

    commands = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    assert mentioned <= {option for known in commands for parameter in known.params for option in parameter.opts}


def settings_without_an_option() -> dict[str, str]:
    """Name and default, as they are written on the command line."""
    settings = pytest.importorskip("edgekit.pipeline.settings", reason="training needs the extra [train]").TrainSettings
    command = group.get_command(click.Context(group), "train")
    assert command is not None
    options = {parameter.name for parameter in command.params}
    fields = [field for field in msgspec.structs.fields(settings) if field.name not in options]
    return {field.name.replace("_", "-"): f"{field.default}" for field in fields}


def test_every_setting_without_an_option_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| `([^`]+)` \| (.+) \|$", (DOCS / "commands" / "train.md").read_text(), re.M)

    assert {name: default for name, default, _ in rows} == settings_without_an_option()


def test_shells_are_offered_every_setting_without_an_option() -> None:
    assert {name.replace("_", "-") for name in OTHER_SETTINGS} == set(settings_without_an_option())


def test_the_readme_speaks_only_of_targets_that_make_has_and_of_the_one_that_installs() -> None:
    declared = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert declared is not None

    named = set(re.findall(r"^ +make ([a-z]+)", (ROOT / "README.md").read_text(), re.M))

    assert {"install"} <= named <= set(declared[1].split())


def test_the_page_of_train_says_how_every_form_of_data_gives_a_test_part() -> None:
    text = (DOCS / "commands" / "train.md").read_text()

    assert all(form in text for form in ("train/", "test/", "t10k-images-idx3-ubyte", "x_test", "test_images"))
