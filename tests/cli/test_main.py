"""The contract of every command: exit codes, the JSON envelope, messages on standard error, Ctrl-C."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

import edgekit
from edgekit import errors
from edgekit.cli import main as main_module
from edgekit.cli.command import command
from edgekit.ui import Output, Problem, Result, Table
from tests.cli.conftest import Invoke

ENVELOPE_KEYS = {"edgekit", "command", "status", "data", "errors"}
EXIT_CODES: dict[type[errors.EdgekitError], int] = {
    errors.EdgekitError: 1,
    errors.UsageError: 2,
    errors.MissingExtraError: 2,
    errors.BadInputError: 3,
    errors.DataError: 3,
    errors.UnsupportedModelError: 3,
    errors.DeviceError: 4,
    errors.LinkLostError: 4,
    errors.TrustError: 5,
    errors.BudgetError: 1,
    errors.TrainingDivergedError: 1,
    errors.ExportMismatchError: 1,
}


def error_classes(base: type[errors.EdgekitError] = errors.EdgekitError) -> Iterator[type[errors.EdgekitError]]:
    yield base
    for derived in base.__subclasses__():
        yield from error_classes(derived)


def test_every_error_class_has_its_exit_code_in_the_table_above() -> None:
    assert set(error_classes()) == set(EXIT_CODES)


def make_error(error_class: type[errors.EdgekitError]) -> errors.EdgekitError:
    if issubclass(error_class, errors.MissingExtraError):
        return error_class("torch", "train")
    if issubclass(error_class, errors.BudgetError):
        return error_class("nothing fits", 812.5, "allow more")
    return error_class("it is wrong", "make it right")


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """A command ``fail`` that raises the exception put into the list."""
    planned: list[BaseException] = []

    @command
    def fail(_output: Output) -> Result:
        raise planned[0]

    register(monkeypatch, fail)
    yield planned


def register(monkeypatch: pytest.MonkeyPatch, made: click.Command) -> None:
    """Make ``made`` a command of edgekit."""
    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda _self, _ctx, _name: made)


@pytest.mark.parametrize("error_class", EXIT_CODES)
def test_each_error_ends_the_command_with_its_own_exit_code(
    error_class: type[errors.EdgekitError], raising: list[BaseException], invoke: Invoke
) -> None:
    raising.append(make_error(error_class))

    outcome = invoke("fail")

    assert outcome.exit_code == EXIT_CODES[error_class]


@pytest.mark.parametrize("error_class", EXIT_CODES)
def test_each_error_is_one_json_object_with_code_message_and_hint(
    error_class: type[errors.EdgekitError], raising: list[BaseException], invoke: Invoke
) -> None:
    error = make_error(error_class)
    raising.append(error)

    envelope = invoke("fail", "--json").envelope

    assert envelope["errors"] == [{"code": error.code, "message": error.message, "hint": error.hint}]


def test_an_error_is_told_to_people_on_standard_error_alone(raising: list[BaseException], invoke: Invoke) -> None:
    raising.append(errors.BadInputError("network.json: no layers", "add one"))

    outcome = invoke("fail")

    assert (outcome.stdout, outcome.stderr) == ("", "error: network.json: no layers\nhint: add one\n")


def test_a_budget_that_cannot_be_met_tells_programs_what_could_be(raising: list[BaseException], invoke: Invoke) -> None:
    raising.append(errors.BudgetError("nothing fits", 812.5))

    assert invoke("fail", "--json").envelope["data"] == {"smallest_us": 812.5}


@pytest.mark.parametrize("args", [("nonsense",), ("target", "show"), ("target", "--nonsense"), ("--nonsense",), ()])
def test_a_usage_error_is_one_json_object_too(args: tuple[str, ...], invoke: Invoke) -> None:
    outcome = invoke(*args, "--json")

    assert (outcome.exit_code, outcome.envelope["errors"][0]["code"]) == (2, "usage")


def test_a_command_that_is_misspelt_is_told_with_the_nearest_one(invoke: Invoke) -> None:
    message = invoke("trian", "--json").envelope["errors"][0]["message"]

    assert message == "there is no command 'trian'; did you mean train?"


def test_a_usage_error_carries_the_name_of_its_command(invoke: Invoke) -> None:
    assert invoke("target", "show", "--json", "--nonsense").envelope["command"] == "target show"


def test_a_failed_envelope_has_the_same_keys_as_a_good_one(raising: list[BaseException], invoke: Invoke) -> None:
    raising.append(errors.DeviceError("the link is down"))

    envelope = invoke("fail", "--json").envelope

    assert set(envelope) == ENVELOPE_KEYS
    assert (envelope["edgekit"], envelope["status"], envelope["data"]) == (1, "error", {})


def test_json_after_two_dashes_is_an_argument_and_no_option(invoke: Invoke) -> None:
    outcome = invoke("target", "show", "--", "--json")

    assert (outcome.stdout, outcome.exit_code) == ("", 2)


def test_an_unexpected_exception_is_a_defect_that_exits_with_1(raising: list[BaseException], invoke: Invoke) -> None:
    raising.append(ZeroDivisionError("division by zero"))

    outcome = invoke("fail", "--json")

    assert outcome.exit_code == 1
    assert outcome.envelope["errors"][0]["message"] == "ZeroDivisionError: division by zero"


def test_a_traceback_is_shown_only_with_debug(raising: list[BaseException], invoke: Invoke) -> None:
    raising.append(errors.DataError("the folder is empty"))

    shown = ["Traceback" in invoke("fail", *options).stderr for options in ((), ("--debug",))]

    assert shown == [False, True]


def test_an_error_of_the_operating_system_names_its_file(raising: list[BaseException], invoke: Invoke) -> None:
    raising.append(PermissionError(13, "Permission denied", "report.html"))

    assert invoke("fail").stderr.startswith("error: report.html: Permission denied\n")


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    @command
    def long(output: Output) -> Result:
        output.resume = "edgekit train --resume --name first"
        raise KeyboardInterrupt

    register(monkeypatch, long)

    outcome = invoke("long", "--json")

    problem = {"code": "interrupted", "message": "interrupted", "hint": "edgekit train --resume --name first"}
    assert (outcome.exit_code, outcome.envelope["errors"]) == (130, [problem])


def test_what_a_library_prints_does_not_reach_the_json(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    @command
    def noisy(_output: Output) -> Result:
        print("a library says hello")
        return Result(data={"answer": 42})

    register(monkeypatch, noisy)

    outcome = invoke("noisy", "--json")

    assert outcome.envelope["data"] == {"answer": 42}
    assert "a library says hello" in outcome.stderr


def test_a_result_that_json_cannot_hold_is_still_one_object(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    @command
    def bad(_output: Output) -> Result:
        return Result(data={"loss": float("nan")})

    register(monkeypatch, bad)

    outcome = invoke("bad", "--json")

    assert (outcome.exit_code, outcome.envelope["status"]) == (1, "error")


def test_structs_and_paths_in_a_result_become_plain_json(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    class Point(msgspec.Struct, frozen=True):
        latency_us: float

    @command
    def structured(_output: Output) -> Result:
        return Result(data={"points": (Point(1.5),), "file": Path("a.onnx")})

    register(monkeypatch, structured)

    assert invoke("structured", "--json").envelope["data"] == {"points": [{"latency_us": 1.5}], "file": "a.onnx"}


def test_a_result_may_say_that_something_is_wrong(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    @command
    def sick(_output: Output) -> Result:
        return Result({"can_run": False}, ("a table",), problems=(Problem("ill", "it is ill"),), exit_code=1)

    register(monkeypatch, sick)

    outcome = invoke("sick")

    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (1, "a table\n", "error: it is ill\n")


def test_a_table_off_a_terminal_is_aligned_and_never_wrapped(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    @command
    def tabular(_output: Output) -> Result:
        rows = (("a", "1"), ("b" * 150, "1000"))
        return Result(text=(Table(("name", "us"), rows, right=frozenset({"us"})),))

    register(monkeypatch, tabular)

    lines = invoke("tabular").stdout.splitlines()

    assert [len(line) for line in lines] == [156, 156, 156]


def test_no_arguments_print_the_help(invoke: Invoke) -> None:
    outcome = invoke()

    assert (outcome.exit_code, outcome.stdout.splitlines()[0]) == (0, "Usage: edgekit [OPTIONS] COMMAND [ARGS]...")


def test_the_version_is_that_of_the_package(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"edgekit {edgekit.__version__}\n"


def test_a_reader_that_goes_away_causes_no_complaint() -> None:
    program = f"{sys.executable} -m edgekit.cli.main target list | true"

    finished = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False, cwd=_source())

    assert finished.stderr == ""


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    program = (
        "import sys; from edgekit.cli.main import main; main([sys.argv[1]]);"
        "heavy = {'numpy', 'torch', 'onnx', 'onnxruntime', 'rich', 'msgspec', 'PIL'} & set(sys.modules);"
        "print(sorted(heavy), file=sys.stderr)"
    )

    finished = subprocess.run(
        [sys.executable, "-c", program, option], capture_output=True, text=True, check=True, cwd=_source()
    )

    assert finished.stderr == "[]\n"


def test_one_json_object_is_all_that_a_process_prints() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "edgekit.cli.main", "target", "list", "--json"],
        capture_output=True,
        check=True,
        cwd=_source(),
    )

    assert set(json.loads(finished.stdout)) == ENVELOPE_KEYS


def _source() -> Path:
    """Where a new process finds the package that is being tested."""
    return Path(edgekit.__file__).parents[1]
