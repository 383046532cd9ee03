"""The page itself: the parts of each run in their order, put into one HTML file that needs nothing but itself.

A content security policy forbids the page every connection, and every script and style that is not its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from string import Template

import edgekit
from edgekit.report.axes import Ranges, shared_ranges
from edgekit.report.bars import budget_bars, layer_bars
from edgekit.report.figure import captioned
from edgekit.report.markup import Markup, element, escape, join
from edgekit.report.quantities import (
    count_text,
    duration_text,
    latency_text,
    percent_text,
    points_text,
    ratio,
    relative_error,
    setting_text,
    signed_percent_text,
    significant,
    size_text,
    times_text,
)
from edgekit.report.runs import Run
from edgekit.report.scatter import legend, scatter
from edgekit.report.tables import badge, definitions, layer_table, point_table, run_table
from edgekit.types import Machine

_SCATTER_CAPTION = (
    "Solid marks were measured on the device. A dashed ring shows where the profile had predicted the same model; "
    "a hollow mark alone was predicted and never measured."
)
_BUDGET_CAPTION = " Models right of the budget line are too slow."
_LAYER_CAPTION = (
    "Pale bars: time of the layer in the dense network; dark bars: what is left of it. Layer times come from the "
    "profile, so their sum is a prediction; the latency of the whole model above was measured. "
    "Drop is the learned probability of removal; a fixed layer could not be dropped by itself."
)


def page(runs: Sequence[Run]) -> str:
    """The HTML of a report on ``runs``, at least one."""
    ranges = {key: _ranges(runs, key) for key in {run.comparable_key for run in runs}}
    articles = [_article(run, ranges[run.comparable_key]) for run in runs]
    style = "columns" if len(runs) > 1 else "single"
    parts = [_masthead(runs)]
    if len(runs) > 1:
        parts.append(element("section", {"class": "card"}, element("h2", None, "Runs"), run_table(runs)))
    parts.append(element("div", {"class": f"runs {style}"}, *articles))
    return html_document(", ".join(run.label for run in runs), element("main", {"class": style}, *parts))


def _ranges(runs: Sequence[Run], key: tuple[str, ...]) -> Ranges:
    return shared_ranges([run for run in runs if run.comparable_key == key])


def html_document(title: str, body: Markup, styles: Sequence[str] = ("style.css",)) -> str:
    """A whole file around ``body``, with the named style sheets of this package and no others."""
    style, script = "\n".join(map(_web_file, styles)), _web_file("hover.js")
    # One pass over the template: a '$' in a model's name is text, not a place to fill.
    return Template(_web_file("page.html")).substitute(
        title=escape(f"{title} \N{MIDDLE DOT} edgekit report"),
        style=style,
        style_hash=_policy_hash(style),
        script=script,
        script_hash=_policy_hash(script),
        body=body,
        version=escape(edgekit.__version__),
    )


def _web_file(name: str) -> str:
    return resources.files("edgekit.report").joinpath("web", name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _masthead(runs: Sequence[Run]) -> Markup:
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} runs side by side"
    return element(
        "header", {"class": "masthead"}, element("p", {"class": "brand"}, "edgekit report"), element("h1", None, title)
    )


def _article(run: Run, ranges: Ranges) -> Markup:
    return element(
        "article",
        {"id": run.anchor, "aria-label": run.label},
        _headline(run),
        _card("Accuracy against latency", _models(run, ranges)),
        _card("Where the time went", _layers(run)),
        _card("How this was made", _circumstances(run)),
    )


def _card(title: str, content: str) -> Markup:
    return element("section", {"class": "card"}, element("h2", None, title), content)


def _headline(run: Run) -> Markup:
    result = run.result
    origin = (result.model, result.data, result.target, result.runtime, result.number_format)
    return element(
        "section",
        {"class": f"card headline {run.verdict}"},
        element("h2", {"class": "run-name"}, run.label),
        element("p", {"class": "origin"}, join(element("span", None, text) for text in origin)),
        element("p", {"class": "verdict"}, badge(run.verdict), element("strong", None, _verdict_text(run))),
        element("p", {"class": "reading"}, _reading(run)),
        budget_bars(run),
        _tiles(run),
    )


def _verdict_text(run: Run) -> str:
    if run.measured_us is None:
        return f"{latency_text(run.result.predicted_us)} predicted"
    measured = f"{latency_text(run.measured_us)} measured"
    return measured if run.budget_us is None else f"{measured}, {latency_text(run.budget_us)} allowed"


def _reading(run: Run) -> str:
    if run.measured_us is None:
        return "The chosen model was not measured on the device; whether it fits is not known."
    error = signed_percent_text(relative_error(run.result.predicted_us, run.measured_us))
    predicted = f"The profile had predicted {latency_text(run.result.predicted_us)} ({error})."
    share = ratio(run.measured_us, run.budget_us)
    if share is None:
        return f"No budget was set. {predicted}"
    return f"The chosen model takes {percent_text(share)} of its budget on {run.result.target}. {predicted}"


def _tiles(run: Run) -> Markup:
    return element("dl", {"class": "tiles"}, *(_tile(*texts) for texts in _tile_texts(run)))


def _tile_texts(run: Run) -> list[tuple[str, str, str]]:
    """Name, value and remark of each tile; size and parameters are known of a chosen model only."""
    result, chosen, dense = run.result, run.chosen, run.dense
    change = points_text(result.accuracy - result.baseline_accuracy)
    faster = times_text(ratio(run.baseline_us, run.measured_us))
    texts = [
        ("accuracy", percent_text(result.accuracy), f"{change} against {percent_text(result.baseline_accuracy)} dense"),
        ("speed against dense", faster, f"dense {latency_text(run.baseline_us)}, measured beside it"),
    ]
    if chosen:
        dense_count = f"dense {count_text(dense.parameter_count)}" if dense else ""
        dense_size = f"dense {size_text(dense.size_bytes)}" if dense and dense.size_bytes else ""
        texts.append(("parameters", count_text(chosen.parameter_count), dense_count))
        texts.append(("file size", size_text(chosen.size_bytes), dense_size))
    return texts


def _tile(name: str, value: str, remark: str) -> Markup:
    return element(
        "div",
        None,
        element("dt", None, name),
        element("dd", {"class": "value"}, value),
        element("dd", {"class": "remark"}, remark),
    )


def _models(run: Run, ranges: Ranges) -> Markup:
    if not run.result.points:
        return element("p", {"class": "quiet"}, "This run recorded no models.")
    content = join([legend(run), scatter(run, ranges)])
    accuracies = "Accuracies are those of the exported files on the test split. Error is predicted against measured."
    caption = _SCATTER_CAPTION + (_BUDGET_CAPTION if run.budget_us else "")
    return join([captioned(content, caption), point_table(run), element("p", {"class": "note"}, accuracies)])


def _layers(run: Run) -> Markup:
    if not run.layers:
        return element("p", {"class": "quiet"}, "This run recorded no layers of a chosen model.")
    numbers = element("details", None, element("summary", None, "The same as a table"), layer_table(run))
    return join([captioned(layer_bars(run), _LAYER_CAPTION), numbers])


def _circumstances(run: Run) -> Markup:
    result = run.result
    settings = {name: setting_text(value) for name, value in sorted(result.settings.items())}
    groups = {
        "Run": _run_facts(run),
        "Machine": _machine_facts(result.machine),
        "Settings": settings,
        "Versions": dict(sorted(result.versions.items())),
    }
    filled = ((name, facts) for name, facts in groups.items() if facts)
    return element(
        "div",
        {"class": "circumstances"},
        *(element("section", None, element("h3", None, name), definitions(facts)) for name, facts in filled),
    )


def _run_facts(run: Run) -> dict[str, str]:
    result, chosen = run.result, run.chosen
    facts = {
        "method": result.method,
        "model": result.model,
        "data": result.data,
        "target": result.target,
        "runtime": f"{result.runtime}, {result.number_format}",
        "date": result.date,
        "seed": str(result.seed),
        "epochs": significant(result.epochs),
        "training time": duration_text(result.seconds),
    }
    return facts | {"file": chosen.file} if chosen and chosen.file else facts


def _machine_facts(machine: Machine) -> dict[str, str]:
    facts = {
        "processor": machine.cpu,
        "cores": str(machine.cores),
        "architecture": machine.architecture,
        "kernel": machine.kernel,
        "governor": machine.governor,
        "load, 1 min": f"{machine.load_1min:.2f}",
    }
    if machine.frequency_mhz:
        facts["frequency"] = f"{machine.frequency_mhz:,.0f} MHz"
    if machine.temperature_celsius is not None:
        facts["temperature"] = f"{machine.temperature_celsius:.0f} \N{DEGREE SIGN}C"
    return facts
