"""Budgets are read from text, and settings that contradict each other are refused before anything is done."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.pipeline.settings import Budget, TrainSettings, parse_budget


@pytest.mark.parametrize(
    ("text", "latency_us"),
    [("1.2ms", 1200.0), ("800us", 800.0), ("800µs", 800.0), ("0.5s", 5e5), (" 3 ms ", 3000.0), (".5ms", 500.0)],
)
def test_a_time_is_a_budget_in_microseconds(text: str, latency_us: float) -> None:
    assert parse_budget(text) == Budget(latency_us=latency_us)


@pytest.mark.parametrize(("text", "share"), [("60%", 0.6), ("100%", 1.0), ("12.5 %", 0.125)])
def test_a_percentage_is_a_share_of_the_dense_time(text: str, share: float) -> None:
    assert parse_budget(text) == Budget(share=share)


@given(st.floats(0.01, 100), st.floats(1, 1e6))
def test_a_share_is_resolved_with_the_dense_time(percent: float, dense_us: float) -> None:
    budget_us = parse_budget(f"{percent:.4f}%").resolve(dense_us)

    assert budget_us == pytest.approx(percent / 100 * dense_us, rel=0.01)


@given(st.floats(1, 1e6))
def test_a_time_is_resolved_without_the_dense_time(dense_us: float) -> None:
    assert parse_budget("250us").resolve(dense_us) == 250.0


@pytest.mark.parametrize(
    "text",
    ["", "60", "ms", "0ms", "0%", "101%", "-5ms", "1e3us", "1,2ms", "60 percent", "nan%", "1.2.3ms", "9" * 20 + "s"],
)
def test_anything_else_is_refused_and_examples_are_given(text: str) -> None:
    with pytest.raises(UsageError, match="is no budget") as raised:
        parse_budget(text)

    assert "1.2ms" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("150%", "at most 100%"),
        ("60", "did you mean 60% or 60ms?"),
        ("1.2", "did you mean 1.2ms or 1.2us?"),
        ("800", "did you mean 800ms or 800us?"),
    ],
)
def test_what_was_probably_meant_is_said(text: str, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_budget(text)

    assert told in f"{raised.value.message} {raised.value.hint}"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budget": "fast"}, "'fast' is no budget"),
        ({"coefficient_low": 1.0}, "--coefficient-low 1 must be below --coefficient-high 1"),
        ({"warmup_share": 0.5, "search_share": 0.5, "trial_share": 0.1}, "their sum is 1.1"),
        ({"penalty_sweep": (0.1, 1.0, 0.1)}, "--lambda-sweep 0.1,1,0.1 names a value twice"),
    ],
)
def test_contradicting_settings_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        TrainSettings(model="resnet8", data="digits", **changes)


def test_settings_survive_their_file() -> None:
    settings = TrainSettings(model="resnet8", data="d", penalty_sweep=(0.1, 1.0), image_size=(12, 12), budget="2ms")

    assert msgspec.json.decode(msgspec.json.encode(settings), type=TrainSettings) == settings
