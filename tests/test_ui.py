"""What is drawn on a terminal, and what is written where there is none."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.types import Progress
from edgekit.ui import Output, Result, Table, plain_table

HOSTILE = "[red]layer[/red] [/] :smile:"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal that can draw."""
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def output_to(terminal: Terminal) -> Output:
    """Text output of a command, all of it to ``terminal``."""
    with redirect_stdout(terminal), redirect_stderr(terminal):
        return Output(as_json=False, debug=False)


def report_progress(output: Output, *stages: str) -> None:
    with output.progress() as progress:
        for stage in stages:
            progress(Progress(stage=stage, done=1, total=4, values={"loss": "0.5"}))


def test_a_terminal_gets_a_bar_with_the_stage_as_it_is_named(terminal: Terminal) -> None:
    report_progress(output_to(terminal), HOSTILE)

    assert HOSTILE in terminal.getvalue()


def test_a_table_on_a_terminal_shows_cells_as_they_are(terminal: Terminal) -> None:
    output_to(terminal).finish(Result(text=(Table(("name",), ((HOSTILE,),)),)))

    assert HOSTILE in terminal.getvalue()


def test_no_color_is_respected_on_a_terminal(terminal: Terminal) -> None:
    output_to(terminal).fail(OSError("the disk is full"))

    assert terminal.getvalue() == "error: the disk is full\n"


def test_a_terminal_shows_errors_in_colour_otherwise(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")

    output_to(terminal).fail(OSError("the disk is full"))

    assert "\x1b[" in terminal.getvalue()


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    report_progress(output_to(terminal), "dense")

    assert terminal.getvalue() == "dense 25%  loss 0.5\n"


def test_without_a_terminal_each_stage_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    report_progress(Output(as_json=False, debug=False), "dense", "dense", "search")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "dense 25%  loss 0.5\nsearch 25%  loss 0.5\n")


def test_a_stage_of_unknown_length_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(as_json=False, debug=False).progress() as progress:
        progress(Progress(stage="run", done=3, total=0))

    assert capsys.readouterr().err == "run 3\n"


@given(st.lists(st.tuples(st.text("ab ", max_size=5), st.text("12", max_size=5)), max_size=4))
def test_columns_of_a_plain_table_begin_and_end_in_line(rows: list[tuple[str, str]]) -> None:
    lines = list(plain_table(Table(("left", "right"), tuple(rows), right=frozenset({"right"}))))

    width = max(len(line) for line in lines)
    assert len(lines) == len(rows) + 1
    assert all(
        line.endswith(row[1]) and (not row[1] or len(line) == width) for line, row in zip(lines[1:], rows, strict=True)
    )
