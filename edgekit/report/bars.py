"""Figures of horizontal bars: the budget beside the measured latencies, and what became of each layer's time.

Bars always start at 0, and no bar is cut.
"""

from __future__ import annotations

import msgspec

from edgekit.report.axes import Scale, tick_decimals, tick_step, ticks
from edgekit.report.figure import Layout, figure, group, label, line, rectangle
from edgekit.report.markup import Markup, join
from edgekit.report.quantities import (
    LatencyUnit,
    latency_text,
    latency_unit,
    percent_text,
    ratio,
    shortened,
)
from edgekit.report.runs import Run
from edgekit.types import LayerChoice

_SMALLEST_RANGE_US = 1e-3
_HEADER = 26.0


class _Columns(msgspec.Struct, frozen=True):
    """Where the parts of one row stand in the layer figure, in pixels; texts other than the name end there."""

    row_height: float
    name_characters: int
    bar_start: float
    bar_end: float
    bar_top: float
    time_end: float
    channels_end: float
    meter_start: float
    meter_end: float
    drop_end: float


_WIDE_COLUMNS = _Columns(24.0, 24, 186.0, 520.0, 4.0, 640.0, 712.0, 728.0, 764.0, 800.0)
_NARROW_COLUMNS = _Columns(44.0, 25, 0.0, 250.0, 20.0, 400.0, 310.0, 326.0, 362.0, 400.0)


def budget_bars(run: Run) -> Markup:
    """The dense network's and the chosen model's measured latency against the budget."""
    return figure(
        f"{run.anchor}-budget",
        f"Measured latency of {run.label} against its budget",
        f"Dense network {latency_text(run.baseline_us)}, chosen model {latency_text(run.measured_us)}, "
        f"budget {latency_text(run.budget_us)}.",
        lambda layout: _draw_budget(run, layout),
    )


def layer_bars(run: Run) -> Markup:
    """For each layer of the chosen model: its time when dense and now, kept channels and drop probability."""
    layers = run.layers
    removed = sum(layer.kept_channels == 0 for layer in layers)
    return figure(
        f"{run.anchor}-layers",
        f"Time of each layer of {run.label}, dense and kept",
        f"{len(layers)} layers in the order of the network, {removed} of them removed. "
        "The table below holds the same numbers.",
        lambda layout: _draw_layers(layers, layout),
    )


def _draw_budget(run: Run, layout: Layout) -> tuple[float, Markup]:
    rows = [("dense", run.baseline_us), ("chosen", run.measured_us)]
    known_us = [time for _, time in rows if time is not None]
    high_us = max([*known_us, run.result.budget_us, _SMALLEST_RANGE_US])
    x = Scale(0.0, high_us, 66.0, layout.width - 100.0)
    bars = [_budget_row(name, time, x, 30.0 + 30.0 * index, layout.width) for index, (name, time) in enumerate(rows)]
    return 100.0, join([*bars, _budget_line(run, x)])


def _budget_row(name: str, latency_us: float | None, x: Scale, top: float, value_end: float) -> Markup:
    time = x.start if latency_us is None else x(latency_us)
    value = "not measured" if latency_us is None else latency_text(latency_us)
    return group(
        "bar-row",
        f"{name}\n{value}",
        label(0, top + 14, name, "bar-name"),
        rectangle(x.start, top, time - x.start, 18, f"bar {name}", 2),
        label(value_end, top + 14, value, f"bar-value {name}", "end"),
    )


def _budget_line(run: Run, x: Scale) -> Markup:
    if run.budget_us is None:
        return Markup("")
    position = x(run.budget_us)
    anchor = "end" if position > (x.start + x.end) / 2 else "start"
    name = label(position, 16, f"budget {latency_text(run.budget_us)}", "budget-name", anchor)
    return join([line((position, 22), (position, 88), "budget-line"), name])


def _draw_layers(layers: tuple[LayerChoice, ...], layout: Layout) -> tuple[float, Markup]:
    columns = _NARROW_COLUMNS if layout.is_narrow else _WIDE_COLUMNS
    high_us = max([_SMALLEST_RANGE_US, *(max(layer.dense_us, layer.kept_us) for layer in layers)])
    unit = latency_unit(high_us)
    x = Scale(0.0, high_us, columns.bar_start, columns.bar_end)
    height = _HEADER + columns.row_height * len(layers) + 6
    rows = [
        _layer_row(layer, x, _HEADER + columns.row_height * index, columns, unit) for index, layer in enumerate(layers)
    ]
    return height, join([_layer_header(x, unit, height, columns), *rows])


def _layer_header(x: Scale, unit: LatencyUnit, height: float, columns: _Columns) -> Markup:
    high = x.high / unit.microseconds
    decimals = tick_decimals(tick_step(high, 4))
    values = [(value, x(value * unit.microseconds)) for value in ticks(0.0, high, 4)]
    names = [label(columns.drop_end, 14, "drop", "tick", "end")]
    if columns.bar_start > 0:
        times = [(columns.time_end, "time kept"), (columns.channels_end, "channels")]
        names += [label(end, 14, name, "tick", "end") for end, name in times]
        names.append(label(0, 14, "layer", "tick"))
    else:
        names.append(label(columns.channels_end, 14, "channels", "tick", "end"))
    return join(
        [
            *(line((position, 20), (position, height), "grid") for _, position in values),
            *(
                label(position, 14, _tick_text(value, decimals, unit), "tick", "start" if position == 0 else "middle")
                for value, position in values
            ),
            *names,
        ]
    )


def _tick_text(value: float, decimals: int, unit: LatencyUnit) -> str:
    return f"{value:,.{decimals}f}" if value else f"0 {unit.symbol}"


def _layer_row(layer: LayerChoice, x: Scale, top: float, columns: _Columns, unit: LatencyUnit) -> Markup:
    text_y = top + 14
    bar_y = top + columns.bar_top
    time_y = bar_y + 11 if columns.bar_start == 0 else text_y
    slower = " slower" if layer.kept_us > layer.dense_us else ""
    return group(
        "layer removed" if layer.kept_channels == 0 else f"layer{slower}",
        _layer_hint(layer, unit),
        rectangle(0, top, columns.drop_end, columns.row_height, "row-ground"),
        label(0, text_y, shortened(layer.name, columns.name_characters), "layer-name"),
        rectangle(x.start, bar_y, x(layer.dense_us) - x.start, 14, "bar dense", 2),
        rectangle(x.start, bar_y + 3.5, x(layer.kept_us) - x.start, 7, "bar chosen", 1),
        label(columns.time_end, time_y, _time_text(layer, unit), "bar-value", "end"),
        label(columns.channels_end, text_y, f"{layer.kept_channels}/{layer.channels}", "bar-value", "end"),
        _drop_meter(layer, text_y, columns),
    )


def _time_text(layer: LayerChoice, unit: LatencyUnit) -> str:
    return "removed" if layer.kept_channels == 0 else latency_text(layer.kept_us, unit)


def _drop_meter(layer: LayerChoice, text_y: float, columns: _Columns) -> Markup:
    probability = layer.drop_probability
    if probability is None:
        return label(columns.drop_end, text_y, "fixed", "bar-value quiet", "end")
    width = columns.meter_end - columns.meter_start
    return join(
        [
            rectangle(columns.meter_start, text_y - 8, width, 6, "meter", 3),
            rectangle(columns.meter_start, text_y - 8, width * probability, 6, "meter-fill", 3),
            label(columns.drop_end, text_y, f"{probability:.2f}", "bar-value", "end"),
        ]
    )


def _layer_hint(layer: LayerChoice, unit: LatencyUnit) -> str:
    share = percent_text(ratio(layer.kept_us, layer.dense_us), 0)
    drop = "cannot be dropped" if layer.drop_probability is None else f"drop probability {layer.drop_probability:.3f}"
    return (
        f"{layer.name} ({layer.kind})\n{latency_text(layer.dense_us, unit)} dense, {latency_text(layer.kept_us, unit)} "
        f"kept ({share})\n{layer.kept_channels} of {layer.channels} channels\n{drop}"
    )
