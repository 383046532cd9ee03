"""The tables of a report: all models, all layers, runs against each other, and what stands beside a measurement.

A table holds every number that a figure draws; it scrolls sideways by itself where the page is narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edgekit.report.markup import Markup, element, join
from edgekit.report.quantities import (
    UNKNOWN,
    LatencyUnit,
    count_text,
    latency_text,
    latency_unit,
    percent_text,
    points_text,
    ratio,
    relative_error,
    setting_text,
    signed_percent_text,
    size_text,
    times_text,
)
from edgekit.report.runs import Run
from edgekit.types import LayerChoice, ModelPoint

VERDICT_TEXT = {
    "met": "within budget",
    "missed": "over budget",
    "no_budget": "no budget",
    "not_measured": "not measured",
}

_POINT_COLUMNS = (
    "model",
    "role",
    "accuracy",
    "measured",
    "predicted",
    "error",
    "parameters",
    "MACs",
    "size",
    "penalty",
)
_LAYER_COLUMNS = ("layer", "kind", "dense", "kept", "channels", "kept channels", "drop probability")
_RUN_COLUMNS = (
    "run",
    "method",
    "device",
    "verdict",
    "measured",
    "budget",
    "of budget",
    "accuracy",
    "speed against dense",
)
_TEXT_COLUMNS = frozenset({"model", "role", "layer", "kind", "run", "method", "device", "verdict"})


def table(name: str, columns: Sequence[str], rows: Iterable[Markup]) -> Markup:
    """A table in a region that a keyboard can scroll; ``name`` is what a listener hears."""
    heads = (element("th", {"scope": "col", "class": _column_class(column)}, column) for column in columns)
    content = element(
        "table",
        None,
        element("caption", {"class": "unseen"}, name),
        element("thead", None, element("tr", None, *heads)),
        element("tbody", None, *rows),
    )
    return element("div", {"class": "scroll", "role": "region", "aria-label": name, "tabindex": "0"}, content)


def point_table(run: Run) -> Markup:
    """Every model of a run: what was measured, what had been predicted, and how far apart they are."""
    times_us = [max(point.predicted_us, point.measured_us or 0.0) for point in run.result.points]
    unit = latency_unit(max(times_us, default=0.0))
    rows = (_point_row(point, unit) for point in run.result.points)
    return table(f"Models of {run.label}", _POINT_COLUMNS, rows)


def layer_table(run: Run) -> Markup:
    """Every layer of the chosen model with its times by the profile."""
    unit = latency_unit(max((max(layer.dense_us, layer.kept_us) for layer in run.layers), default=0.0))
    rows = (_layer_row(layer, unit) for layer in run.layers)
    return table(f"Layers of {run.label}", _LAYER_COLUMNS, rows)


def run_table(runs: Sequence[Run]) -> Markup:
    """One row per run, each leading to its part of the page."""
    return table("Runs", _RUN_COLUMNS, (_run_row(run) for run in runs))


def definitions(values: Mapping[str, str]) -> Markup:
    """Names with their values."""
    pairs = (element("div", None, element("dt", None, key), element("dd", None, text)) for key, text in values.items())
    return element("dl", {"class": "facts"}, *pairs)


def badge(verdict: str) -> Markup:
    """The verdict in words, coloured; the colour says nothing that the words do not."""
    return element("span", {"class": f"badge {verdict}"}, VERDICT_TEXT[verdict])


def _point_row(point: ModelPoint, unit: LatencyUnit) -> Markup:
    is_measured = point.measured_us is not None
    measured = latency_text(point.measured_us, unit) if is_measured else element("em", None, "predicted only")
    return _row(
        _POINT_COLUMNS,
        [
            point.name,
            point.role,
            percent_text(point.accuracy, 2),
            measured,
            latency_text(point.predicted_us, unit),
            signed_percent_text(relative_error(point.predicted_us, point.measured_us)),
            count_text(point.parameter_count),
            count_text(point.mac_count),
            size_text(point.size_bytes),
            setting_text(point.penalty_weight),
        ],
        f"{point.role} {'measured' if is_measured else 'unmeasured'}",
    )


def _layer_row(layer: LayerChoice, unit: LatencyUnit) -> Markup:
    probability = layer.drop_probability
    return _row(
        _LAYER_COLUMNS,
        [
            layer.name,
            layer.kind.replace("_", " "),
            latency_text(layer.dense_us, unit),
            latency_text(layer.kept_us, unit),
            count_text(layer.channels),
            count_text(layer.kept_channels),
            UNKNOWN if probability is None else f"{probability:.3f}",
        ],
        "removed" if layer.kept_channels == 0 else "",
    )


def _run_row(run: Run) -> Markup:
    result = run.result
    return _row(
        _RUN_COLUMNS,
        [
            element("a", {"href": f"#{run.anchor}"}, run.label),
            result.method,
            result.target,
            badge(run.verdict),
            latency_text(run.measured_us),
            latency_text(run.budget_us),
            percent_text(ratio(run.measured_us, run.budget_us), 0),
            join([percent_text(result.accuracy), " (", points_text(result.accuracy - result.baseline_accuracy), ")"]),
            times_text(ratio(run.baseline_us, run.measured_us)),
        ],
        "",
    )


def _row(columns: Sequence[str], cells: Sequence[str], style: str) -> Markup:
    head = element("th", {"scope": "row"}, element("span", {"class": "name"}, cells[0]))
    rest = (
        element("td", {"class": _column_class(column)}, cell)
        for column, cell in zip(columns[1:], cells[1:], strict=True)
    )
    return element("tr", {"class": style or None}, head, *rest)


def _column_class(column: str) -> str | None:
    return None if column in _TEXT_COLUMNS else "number"
