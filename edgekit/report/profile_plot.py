"""A profile as a page of small pictures: time against channels, one panel for each family of layers.

Times are those of the profile; nothing is measured, and the lines between the marks are what `PriceTable` interpolates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgekit import files
from edgekit.errors import UsageError
from edgekit.profile.predict import family_of, position_of
from edgekit.profile.units import is_tied
from edgekit.report.axes import Scale, tick_decimals, tick_step, ticks
from edgekit.report.figure import group, label, line
from edgekit.report.markup import Markup, element, join
from edgekit.report.page import html_document
from edgekit.report.quantities import latency_text, latency_unit, percent_text
from edgekit.report.tables import definitions
from edgekit.types import NumberFormat, Profile, UnitSpec, UnitTiming

_WIDTH, _HEIGHT = 380.0, 230.0
_TOP, _RIGHT, _BOTTOM, _LEFT = 12.0, 56.0, 40.0, 46.0
_SMALLEST_RANGE_US = 1e-3
_NAME_HEIGHT = 12.0
_TONES = 5
_MOST_NAMES = 9
_CAPTION = (
    "Marks were measured, with the span from the 10th to the 90th percentile; the light lines between them are "
    "interpolated. Where a line is flat, dropping channels saves nothing; where it rises in a step, one group more or "
    "less decides. Every axis starts at 0, and panels have scales of their own. The number behind a line is the width "
    "at the layer's other side."
)


class Series(msgspec.Struct, frozen=True):
    """Units that differ in one width alone, ascending; ``fixed_width`` is their other width, None if it is tied."""

    fixed_width: int | None
    points: tuple[tuple[int, UnitTiming], ...]


class Panel(msgspec.Struct, frozen=True):
    """A family of layers: those of one kernel, stride, image size and number format, at several widths."""

    family: UnitSpec
    varies_input: bool
    series: tuple[Series, ...]

    @property
    def number_format(self) -> NumberFormat:
        """The number format of all units."""
        return self.family.number_format

    @property
    def largest_us(self) -> float:
        """Time of the slowest unit."""
        return max(timing.latency_us for series in self.series for _, timing in series.points)


def write_profile_plot(profile: Profile, output: Path) -> Path:
    """Write the page to ``output``, an .html file that needs nothing but itself. Raises UsageError for another name."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output}: the picture is an .html file", f"name it {output.with_suffix('.html')}")
    files.write_atomic(output, profile_page(profile).encode("utf-8"))
    return output


def profile_page(profile: Profile) -> str:
    """The HTML of a profile: what it was measured on, and its panels, a card for each number format."""
    found = panels(profile)
    formats = list(dict.fromkeys(panel.number_format for panel in found))
    cards = [_format_card(name, [panel for panel in found if panel.number_format == name]) for name in formats]
    if not cards:
        empty = "No layer of this profile was measured at two widths or more."
        cards = [element("section", {"class": "card"}, element("p", {"class": "quiet"}, empty))]
    title = f"{profile.target} on {profile.runtime_version}"
    body = element("main", {"class": "profile"}, _masthead(title), _facts(profile), *cards)
    return html_document(title, body, ("style.css", "profile.css"))


def panels(profile: Profile) -> tuple[Panel, ...]:
    """Families that were measured at two widths at least, the slowest first."""
    families: dict[UnitSpec, list[UnitTiming]] = {}
    for timing in profile.units:
        families.setdefault(family_of(timing.unit), []).append(timing)
    found = [_panel(family, timings) for family, timings in families.items()]
    drawn = [panel for panel in found if any(len(series.points) > 1 for series in panel.series)]
    return tuple(sorted(drawn, key=lambda panel: -panel.largest_us))


def _panel(family: UnitSpec, timings: Sequence[UnitTiming]) -> Panel:
    positions = [(*position_of(timing.unit), timing) for timing in timings]
    # A classifier's outputs never change: then it is its inputs that were varied.
    tied = is_tied(timings[0].unit)
    varies_input = not tied and len({out for _, out, _ in positions}) == 1
    rows: dict[int, list[tuple[int, UnitTiming]]] = {}
    for in_width, out_width, timing in positions:
        fixed, varied = (out_width, in_width) if varies_input else (in_width, out_width)
        rows.setdefault(fixed, []).append((varied, timing))
    series = [
        Series(None if tied else fixed, tuple(sorted(points, key=lambda point: point[0])))
        for fixed, points in sorted(rows.items())
    ]
    return Panel(family, varies_input, tuple(series))


def _masthead(title: str) -> Markup:
    brand = element("p", {"class": "brand"}, "edgekit profile")
    return element("header", {"class": "masthead"}, brand, element("h1", None, title))


def _facts(profile: Profile) -> Markup:
    machine = profile.machine
    facts = {
        "processor": f"{machine.cpu}, {machine.cores} cores, {machine.architecture}",
        "threads": str(profile.threads),
        "governor": machine.governor,
        "measured": profile.date,
        "units": f"{len(profile.units):,}",
        "overhead of a run": latency_text(profile.overhead_us),
    }
    for found in profile.corrections:
        name = f"error on {found.network}, {found.number_format}"
        error = found.correction
        facts[name] = f"{percent_text(error.median_error)} median, {percent_text(error.max_error)} largest"
    taints = [element("li", None, reason) for reason in profile.tainted]
    warning = element("ul", {"class": "taints"}, *taints) if taints else Markup("")
    return element("section", {"class": "card"}, warning, definitions(facts))


def _format_card(number_format: NumberFormat, found: Sequence[Panel]) -> Markup:
    title = f"Time against channels, {number_format}"
    drawn = [_figure(f"{number_format}-{index}", panel) for index, panel in enumerate(found)]
    return element(
        "section",
        {"class": "card"},
        element("h2", None, title),
        element("p", {"class": "reading"}, _CAPTION),
        element("div", {"class": "panels"}, *drawn),
    )


def _figure(anchor: str, panel: Panel) -> Markup:
    title, remark = _title(panel.family), _remark(panel)
    attributes = {
        "viewBox": f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        "role": "img",
        "aria-labelledby": f"{anchor}-title {anchor}-desc",
    }
    words = (
        element("title", {"id": f"{anchor}-title"}, title),
        element("desc", {"id": f"{anchor}-desc"}, f"Time against {_axis_name(panel)}: {remark}."),
    )
    picture = element("svg", attributes, *words, _draw(panel))
    heading = element("h3", None, title)
    return element("figure", {"class": "panel"}, heading, element("p", {"class": "remark"}, remark), picture)


def _title(family: UnitSpec) -> str:
    """What the units of a family have in common, in words."""
    image = "x".join(map(str, family.input_shape[1:]))
    at = f" at {image}" if image else ""
    if family.kind == "conv":
        name = "depthwise" if family.groups == 0 else "conv"
        grouped = f", {family.groups} groups" if family.groups > 1 else ""
        return f"{name} {_window(family)}{grouped}{at}{_activation(family)}"
    if family.kind in ("max_pool", "average_pool"):
        return f"{family.kind.replace('_', ' ')} {_window(family)}{at}"
    return f"{family.kind.replace('_', ' ')}{at}{_activation(family)}"


def _window(family: UnitSpec) -> str:
    stride = f", stride {family.stride[0]}" if family.stride != (1, 1) else ""
    dilation = f", dilation {family.dilation[0]}" if family.dilation != (1, 1) else ""
    return f"{family.kernel[0]}x{family.kernel[1]}{stride}{dilation}"


def _activation(family: UnitSpec) -> str:
    return f", {family.activation}" if family.activation != "none" and family.kind != "activation" else ""


def _remark(panel: Panel) -> str:
    times = [timing.latency_us for series in panel.series for _, timing in series.points]
    unit = latency_unit(max(times))
    return f"{len(times)} units, {latency_text(min(times), unit)} to {latency_text(max(times), unit)}"


def _axis_name(panel: Panel) -> str:
    is_vector = len(panel.family.input_shape) == 1
    noun = "features" if is_vector else "channels"
    return f"input {noun}" if panel.varies_input else f"kept {noun}"


def _names_header(panel: Panel) -> str:
    """What the numbers behind the lines count."""
    if panel.series[0].fixed_width is None:
        return ""
    return "outputs" if panel.varies_input else "inputs"


def _draw(panel: Panel) -> Markup:
    widths = sorted({width for series in panel.series for width, _ in series.points})
    highest_us = max([_SMALLEST_RANGE_US, panel.largest_us, *(_span(t)[1] for s in panel.series for _, t in s.points)])
    x = Scale(0.0, float(widths[-1]), _LEFT, _WIDTH - _RIGHT)
    y = Scale(0.0, highest_us * 1.04, _HEIGHT - _BOTTOM, _TOP)
    names = _name_positions(panel, y)
    drawn = [
        _series(series, index, len(panel.series), x, y, names.get(index)) for index, series in enumerate(panel.series)
    ]
    return join([_time_axis(y, x), _width_axis(panel, widths, x, y), *drawn])


def _time_axis(y: Scale, x: Scale) -> Markup:
    unit = latency_unit(y.high)
    high = y.high / unit.microseconds
    decimals = tick_decimals(tick_step(high, 4))
    values = [(value, y(value * unit.microseconds)) for value in ticks(0.0, high, 4)]
    return join(
        [
            *(line((x.start, position), (x.end, position), "grid") for _, position in values),
            *(label(x.start - 7, position + 4, f"{value:,.{decimals}f}", "tick", "end") for value, position in values),
            label(x.start - 7, y.start + 32, unit.symbol, "axis-name", "end"),
        ]
    )


def _width_axis(panel: Panel, widths: Sequence[int], x: Scale, y: Scale) -> Markup:
    marked = widths if len(widths) <= 8 else [round(value) for value in ticks(0.0, x.high)]
    return join(
        [
            line((x.start, y.start), (x.end, y.start), "axis"),
            *(line((x(width), y.start), (x(width), y.start + 4), "axis") for width in marked),
            *(label(x(width), y.start + 17, str(width), "tick", "middle") for width in marked),
            label(x.end, y.start + 32, _axis_name(panel), "axis-name", "end"),
            label(x.end + 8, y.start + 32, _names_header(panel), "series-name"),
        ]
    )


def _series(series: Series, index: int, count: int, x: Scale, y: Scale, name_y: float | None) -> Markup:
    places = [(x(width), y(timing.latency_us)) for width, timing in series.points]
    path = " ".join(f"{left:.2f},{top:.2f}" for left, top in places)
    tone = 3 if count == 1 else round(index * (_TONES - 1) / (count - 1))
    name = Markup("")
    if name_y is not None and series.fixed_width is not None:
        name = label(x.end + 8, name_y, f"{series.fixed_width}", "series-name")
    return element(
        "g",
        {"class": f"series tone-{tone}"},
        element("polyline", {"points": path, "class": "between"}),
        *(_mark(width, timing, series, x, y) for width, timing in series.points),
        name,
    )


def _mark(width: int, timing: UnitTiming, series: Series, x: Scale, y: Scale) -> Markup:
    low, high = _span(timing)
    center = x(width)
    return group(
        "unit",
        _hint(timing, low, high),
        line((center, y(low)), (center, y(high)), "spread"),
        element("circle", {"cx": center, "cy": y(timing.latency_us), "r": 3.2, "class": "mark"}),
    )


def _hint(timing: UnitTiming, low: float, high: float) -> str:
    unit = timing.unit
    shapes = f"{unit.input_shape[0]} \N{RIGHTWARDS ARROW} {unit.output_shape[0]}"
    span = f"{latency_text(low)} to {latency_text(high)} (10th to 90th percentile)"
    return f"{shapes}\n{latency_text(timing.latency_us)} measured\n{span}"


def _span(timing: UnitTiming) -> tuple[float, float]:
    """10th and 90th percentile of the framed model less the median of its frame."""
    frame_us = timing.frame.median_us
    return max(0.0, timing.framed.p10_us - frame_us), max(0.0, timing.framed.p90_us - frame_us)


def _name_positions(panel: Panel, y: Scale) -> dict[int, float]:
    """Where the fixed widths stand behind the lines' ends, none over another; few of many, since all would not fit."""
    count = len(panel.series)
    step = max(1, -(-count // _MOST_NAMES))
    chosen = [index for index in range(count) if (count - 1 - index) % step == 0]
    wanted = {index: y(panel.series[index].points[-1][1].latency_us) + 4 for index in chosen}
    return dict(_apart(sorted(wanted.items(), key=lambda item: -item[1]), y.start + 4))


def _apart(wanted: Sequence[tuple[int, float]], lowest: float) -> Iterator[tuple[int, float]]:
    """The positions from the lowest up, each at least a line of text above the one before."""
    limit = lowest
    for index, position in wanted:
        placed = min(position, limit)
        yield index, placed
        limit = placed - _NAME_HEIGHT
