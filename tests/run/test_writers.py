"""Outcomes as CSV and as JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.run import Classified, Failed, Outcome, Score, write_csv, write_json_lines

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))
CAT = Classified("a.png", "cat", 0.75, (Score("cat", 0.75), Score("dog", 0.25)))
BAD = Failed("b.png", "it is no image")


def _csv(*outcomes: Outcome, top: int = 1) -> str:
    stream = io.StringIO()
    write_csv(outcomes, stream, top=top)
    return stream.getvalue()


def _json_lines(*outcomes: Outcome) -> str:
    stream = io.StringIO()
    write_json_lines(outcomes, stream)
    return stream.getvalue()


def test_csv_has_a_header_and_one_row_per_outcome() -> None:
    assert _csv(CAT, BAD) == "path,label,score,error\na.png,cat,0.750000,\nb.png,,,it is no image\n"


def test_csv_of_the_best_classes_has_the_same_columns_in_each_row() -> None:
    assert _csv(CAT, BAD, top=3).splitlines() == [
        "path,label,score,error,label_2,score_2,label_3,score_3",
        "a.png,cat,0.750000,,dog,0.250000,,",
        "b.png,,,it is no image,,,,",
    ]


def test_json_lines_hold_one_object_per_outcome() -> None:
    assert [json.loads(line) for line in _json_lines(CAT, BAD).splitlines()] == [
        {
            "path": "a.png",
            "label": "cat",
            "score": 0.75,
            "top": [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}],
        },
        {"path": "b.png", "error": "it is no image"},
    ]


@given(path=TEXT, label=TEXT)
def test_any_name_comes_back_from_csv(path: str, label: str) -> None:
    rows = list(csv.reader(io.StringIO(_csv(Classified(path, label, 1.0, (Score(label, 1.0),))), newline="")))

    assert rows[1][:2] == [path, label]


@given(path=TEXT)
def test_any_name_stays_on_one_line_of_json(path: str) -> None:
    text = _json_lines(Failed(path, "reason"))

    assert text.count("\n") == 1 and json.loads(text)["path"] == path


@pytest.mark.parametrize("write", [_csv, _json_lines])
def test_a_name_that_is_no_utf8_can_be_encoded(write: object) -> None:
    assert callable(write)
    text = write(Failed(os.fsdecode(b"a\xff.png"), "reason"))

    assert b"xff.png" in text.encode("utf-8")


def test_rows_are_written_as_the_outcomes_come() -> None:
    stream = io.StringIO()
    seen: list[int] = []

    def watched() -> Iterator[Outcome]:
        for outcome in (CAT, BAD):
            yield outcome
            seen.append(stream.getvalue().count("\n"))

    write_csv(watched(), stream)

    assert seen == [2, 3]
