"""The figure of accuracy against latency: measured points, where the profile had predicted them, and the budget.

Only what was measured is drawn solid. A point that was not measured is drawn where it was predicted, hollow.
"""

from __future__ import annotations

from edgekit.report.axes import Ranges, Scale, tick_decimals, tick_step, ticks
from edgekit.report.figure import Layout, figure, group, label, line, rectangle
from edgekit.report.markup import Markup, element, join
from edgekit.report.placement import Box, Place, mark_box, place_at, place_name, text_width
from edgekit.report.quantities import (
    latency_text,
    percent_text,
    relative_error,
    shortened,
    signed_percent_text,
    significant,
)
from edgekit.report.runs import Run
from edgekit.types import ModelPoint

ROLES = ("swept", "dense", "chosen")
"""Roles in the order of drawing: what matters most comes last, on top."""

_TOP, _RIGHT, _BOTTOM, _LEFT = 30.0, 16.0, 52.0, 58.0
_RADIUS = {"swept": 3.5, "dense": 5.5, "chosen": 7.0}


def scatter(run: Run, ranges: Ranges) -> Markup:
    """Accuracy against latency of every point of ``run``."""
    return figure(
        f"{run.anchor}-scatter",
        f"Accuracy against latency of {run.label}",
        _description(run, ranges),
        lambda layout: _draw(run, ranges, layout),
    )


def legend(run: Run) -> Markup:
    """What the marks mean: only those that this run has."""
    roles = {point.role for point in run.result.points}
    entries = [_legend_entry(role, _mark(role, 8, 8, measured=True)) for role in reversed(ROLES) if role in roles]
    if run.result.points:
        entries.append(_legend_entry("predicted", _mark("ghost", 8, 8, measured=False)))
    if run.budget_us:
        entries.append(_legend_entry("budget", line((8, 1), (8, 15), "budget-line")))
    return element("ul", {"class": "legend"}, *entries)


def _legend_entry(text: str, mark: Markup) -> Markup:
    picture = element("svg", {"viewBox": "0 0 16 16", "aria-hidden": "true", "class": f"point {text}"}, mark)
    return element("li", None, picture, text)


def _description(run: Run, ranges: Ranges) -> str:
    points = run.result.points
    measured = sum(point.measured_us is not None for point in points)
    budget = f" The budget is {latency_text(run.budget_us)}." if run.budget_us else ""
    return (
        f"{len(points)} models, {measured} of them measured, on a latency axis from 0 to "
        f"{latency_text(ranges.latency_high_us, ranges.unit)} and an accuracy axis from "
        f"{percent_text(ranges.accuracy_low)} to {percent_text(ranges.accuracy_high)}.{budget} "
        "The table of models below holds the same numbers."
    )


def _draw(run: Run, ranges: Ranges, layout: Layout) -> tuple[float, Markup]:
    height = 340.0 if layout.is_narrow else 420.0
    x = Scale(0.0, ranges.latency_high_us, _LEFT, layout.width - _RIGHT)
    y = Scale(ranges.accuracy_low, ranges.accuracy_high, height - _BOTTOM, _TOP)
    ordered = sorted(run.result.points, key=lambda point: ROLES.index(point.role))
    marks = [_point(point, x, y) for point in ordered]
    axes = [_latency_axis(ranges, x, y), _accuracy_axis(ranges, x, y)]
    return height, join([*axes, _budget(run, x, y), *marks, *_names(run, x, y)])


def _latency_axis(ranges: Ranges, x: Scale, y: Scale) -> Markup:
    unit, bottom = ranges.unit, y.start
    high = ranges.latency_high_us / unit.microseconds
    decimals = tick_decimals(tick_step(high))
    values = [(value, x(value * unit.microseconds)) for value in ticks(0.0, high)]
    return join(
        [
            *(line((position, y.end), (position, bottom), "grid") for _, position in values),
            *(label(position, bottom + 18, f"{value:,.{decimals}f}", "tick", "middle") for value, position in values),
            line((x.start, bottom), (x.end, bottom), "axis"),
            label(x.end, bottom + 40, f"latency of one inference [{unit.symbol}], from 0", "axis-name", "end"),
        ]
    )


def _accuracy_axis(ranges: Ranges, x: Scale, y: Scale) -> Markup:
    low, high = 100 * ranges.accuracy_low, 100 * ranges.accuracy_high
    decimals = tick_decimals(tick_step(high - low))
    values = [(value, y(value / 100)) for value in ticks(low, high)]
    origin = "" if ranges.accuracy_low == 0 else f", from {significant(low)}"
    return join(
        [
            *(line((x.start, position), (x.end, position), "grid") for _, position in values),
            *(label(x.start - 8, position + 4, f"{value:.{decimals}f}", "tick", "end") for value, position in values),
            label(4, 16, f"accuracy [%]{origin}", "axis-name"),
        ]
    )


def _budget(run: Run, x: Scale, y: Scale) -> Markup:
    place = _budget_place(run, x, y)
    if run.budget_us is None or place is None:
        return Markup("")
    position = x(run.budget_us)
    return join(
        [
            rectangle(position, y.end, x.end - position, y.start - y.end, "over-budget"),
            line((position, y.end), (position, y.start), "budget-line"),
            label(place.x, place.baseline, _budget_text(run), "budget-name halo", place.anchor),
        ]
    )


def _budget_place(run: Run, x: Scale, y: Scale) -> Place | None:
    """Where the budget is named: at the foot of its line, on the side with more room."""
    if run.budget_us is None:
        return None
    position, width = x(run.budget_us), text_width(_budget_text(run))
    if position > (x.start + x.end) / 2:
        return place_at(position - 6, y.start - 8, width, "end")
    return place_at(position + 6, y.start - 8, width, "start")


def _budget_text(run: Run) -> str:
    return f"budget {latency_text(run.budget_us)}"


def _point(point: ModelPoint, x: Scale, y: Scale) -> Markup:
    predicted, height = x(point.predicted_us), y(point.accuracy)
    hint = _hint(point)
    if point.measured_us is None:
        return group(f"point {point.role}", hint, _mark(point.role, predicted, height, measured=False))
    measured = x(point.measured_us)
    return group(
        f"point {point.role}",
        hint,
        line((predicted, height), (measured, height), "ghost-line"),
        _mark("ghost", predicted, height, measured=False),
        _mark(point.role, measured, height, measured=True),
    )


def _hint(point: ModelPoint) -> str:
    accuracy = f"{point.name} ({point.role})\naccuracy {percent_text(point.accuracy)}"
    predicted = latency_text(point.predicted_us)
    if point.measured_us is None:
        return f"{accuracy}\npredicted {predicted}, not measured"
    error = signed_percent_text(relative_error(point.predicted_us, point.measured_us))
    return f"{accuracy}\nmeasured {latency_text(point.measured_us)}\npredicted {predicted} ({error})"


def _mark(role: str, x: float, y: float, *, measured: bool) -> Markup:
    style = "mark" if measured else "mark unmeasured"
    radius = _RADIUS.get(role, 4.0)
    if role == "dense":
        return rectangle(x - radius, y - radius, 2 * radius, 2 * radius, style)
    if role == "chosen":
        corners = ((x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y))
        return element("polygon", {"points": " ".join(f"{cx:.2f},{cy:.2f}" for cx, cy in corners), "class": style})
    return element("circle", {"cx": x, "cy": y, "r": radius, "class": style})


def _names(run: Run, x: Scale, y: Scale) -> list[Markup]:
    frame = Box(x.start, y.end, x.end, y.start)
    taken = [mark_box(_position(x, point), y(point.accuracy)) for point in run.result.points]
    taken += [mark_box(x(point.predicted_us), y(point.accuracy)) for point in run.result.points]
    budget = _budget_place(run, x, y)
    taken += [budget.box] if budget else []
    names = []
    for point in (run.chosen, run.dense):
        if point is not None:
            text = f"{shortened(point.name, 22)} {percent_text(point.accuracy)}"
            place = place_name(text, _position(x, point), y(point.accuracy), frame, taken)
            taken.append(place.box)
            names.append(label(place.x, place.baseline, text, f"point-name halo {point.role}", place.anchor))
    return names


def _position(x: Scale, point: ModelPoint) -> float:
    return x(point.predicted_us if point.measured_us is None else point.measured_us)
