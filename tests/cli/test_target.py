"""``edgekit target``: shipped and own targets, and what is said about a file that cannot be used."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Invoke

OWN_TARGET = """
name = "box"
description = "The box under the desk"
transport = "local"

[runtimes.onnx]
threads = 2
"""


def write_target(text: str = OWN_TARGET, name: str = "box") -> None:
    """A file in ./targets of the current folder."""
    Path("targets").mkdir(exist_ok=True)
    Path(f"targets/{name}.toml").write_text(text)


def test_the_shipped_target_is_listed(invoke: Invoke) -> None:
    listed = invoke("target", "list", "--json").envelope["data"]["targets"]

    assert ("cpu", "edgekit") in [(target["name"], target["origin"]) for target in listed]


def test_a_users_own_target_is_listed_beside_it(invoke: Invoke) -> None:
    write_target()

    lines = invoke("target", "list").stdout.splitlines()

    names = [line.split()[0] for line in lines]
    assert names[0] == "name" and {"box", "cpu"} < set(names) and names[1:] == sorted(names[1:])


def test_a_broken_target_is_listed_with_its_problem(invoke: Invoke) -> None:
    write_target("nonsense = 1", "broken")

    outcome = invoke("target", "list", "--json")

    (broken,) = [found for found in outcome.envelope["data"]["targets"] if found["name"] == "broken"]
    assert (outcome.exit_code, broken["target"]) == (0, None)
    assert "broken.toml" in broken["problem"]


def test_show_gives_the_keys_of_the_file(invoke: Invoke) -> None:
    write_target()

    shown = invoke("target", "show", "targets/box.toml", "--json").envelope["data"]["target"]

    assert (shown["name"], shown["runtimes"]["onnx"]["threads"]) == ("box", 2)


def test_show_of_a_broken_file_is_bad_input(invoke: Invoke) -> None:
    write_target("nonsense = 1", "broken")

    assert invoke("target", "show", "broken").exit_code == 3


def test_show_of_an_unknown_name_offers_the_nearest(invoke: Invoke) -> None:
    problem = invoke("target", "show", "cpuu", "--json").envelope["errors"][0]

    assert (problem["code"], problem["hint"]) == ("usage", "use one of: cpu")
