"""The page tells what was recorded, escapes every string, is well formed, and refers to nothing outside itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.report.page import page
from edgekit.report.runs import Run
from edgekit.types import LayerChoice, ModelPoint
from tests.report.results import make_layers, make_point, make_result

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>${body}$title{0}&amp;"
VOID = {"meta", "link", "br", "hr", "img"}
NAMES = st.text(max_size=30) | st.just(HOSTILE)
LATENCIES = st.floats(0, 1e12)
LAYERS = st.builds(
    LayerChoice,
    name=NAMES,
    kind=st.sampled_from(["conv", "add", "dense"]),
    channels=st.integers(0, 2**53),
    kept_channels=st.integers(0, 2**53),
    dense_us=LATENCIES,
    kept_us=LATENCIES,
    drop_probability=st.none() | st.floats(0, 1),
)
POINTS = st.builds(
    ModelPoint,
    name=NAMES,
    role=st.sampled_from(["dense", "swept", "chosen"]),
    accuracy=st.floats(0, 1),
    predicted_us=LATENCIES,
    measured_us=st.none() | LATENCIES,
    parameter_count=st.integers(0, 2**53),
    mac_count=st.integers(0, 2**53),
    size_bytes=st.integers(0, 2**53),
    penalty_weight=st.none() | st.floats(allow_nan=False),
    layers=st.lists(LAYERS, max_size=3).map(tuple),
)


class Document(HTMLParser):
    """What a browser would read: text outside scripts and styles, elements, and whether every one is closed."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.elements)

    def attribute(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


def page_of(*results: dict[str, object]) -> str:
    runs = [
        Run(label=f"run {number}", anchor=f"run-{number}", result=make_result(**changes))
        for number, changes in enumerate(results)
    ]
    return page(runs)


def document_of(*results: dict[str, object]) -> Document:
    return Document(page_of(*results).replace("\N{NARROW NO-BREAK SPACE}", " "))


def test_the_headline_tells_measured_budget_share_accuracy_and_speed() -> None:
    text = document_of({}).text

    for words in ("within budget", "492 \N{MICRO SIGN}s measured, 500 \N{MICRO SIGN}s allowed", "98.4 %", "1.72"):
        assert words in text


def test_a_missed_budget_is_said_in_words() -> None:
    text = document_of({"measured_us": 538.0}).text

    assert "over budget" in text
    assert "107.6 % of its budget" in text


def test_a_run_without_a_budget_draws_no_budget_line() -> None:
    document = document_of({"budget_us": 0.0})

    assert "No budget was set" in document.text
    assert "budget-line" not in document.attribute("class")


def test_a_run_that_was_not_measured_gives_no_verdict() -> None:
    text = document_of({"measured_us": 0.0}).text

    assert "not measured" in text
    assert "within budget" not in text


def test_a_point_without_measurement_is_marked_as_predicted_only() -> None:
    measured = make_point("a", "swept", 0.9, 100.0, 90.0)
    predicted = make_point("b", "swept", 0.9, 100.0, None)

    assert "predicted only" not in document_of({"points": (measured,)}).text
    assert "predicted only" in document_of({"points": (predicted,)}).text


def test_a_point_without_measurement_is_drawn_hollow_and_without_a_solid_mark() -> None:
    styles = document_of({"points": (make_point("b", "swept", 0.9, 100.0, None),)}).attribute("class")

    # The one solid mark is that of the legend.
    assert styles.count("mark") == 1


def test_the_table_holds_the_relative_error_of_each_prediction() -> None:
    text = document_of({"points": (make_point("a", "swept", 0.9, 110.0, 100.0),)}).text

    assert "+10.0 %" in text


def test_settings_machine_versions_date_and_seed_are_shown() -> None:
    text = document_of({"seed": 4711}).text

    for words in ("learning_rate", "Cortex-A72", "onnxruntime", "1.29.0", "2026-03-14T10:12:00Z", "4711"):
        assert words in text


def test_sixty_layers_have_sixty_rows_in_figure_and_table() -> None:
    chosen = make_point("big", "chosen", 0.9, 100.0, 101.0, make_layers(60))

    markup = page_of({"points": (chosen,)})

    assert markup.count('class="layer-name"') == 2 * 60
    assert markup.count('<th scope="row"><span class="name">stage') == 60


def test_a_layer_that_became_slower_is_marked() -> None:
    layer = LayerChoice(name="odd", kind="conv", channels=32, kept_channels=31, dense_us=10.0, kept_us=22.0)
    chosen = make_point("odd", "chosen", 0.9, 100.0, 101.0, (layer,))

    assert "layer slower" in document_of({"points": (chosen,)}).attribute("class")


def test_a_removed_layer_is_named_so() -> None:
    layer = LayerChoice(name="gone", kind="conv", channels=32, kept_channels=0, dense_us=10.0, kept_us=0.0)

    assert "removed" in document_of({"points": (make_point("a", "chosen", 0.9, 1.0, 1.0, (layer,)),)}).text


@pytest.mark.parametrize("points", [(), (make_point("only", "chosen", 0.9, 100.0, 120.0),)])
def test_no_points_and_one_point_make_a_page(points: tuple[ModelPoint, ...]) -> None:
    assert document_of({"points": points}).open == []


def test_two_runs_have_a_table_that_leads_to_each() -> None:
    document = document_of({}, {"measured_us": 600.0})

    assert document.count("article") == 2
    assert document.attribute("href")[1:] == ["#run-0", "#run-1"]


def test_two_comparable_runs_share_their_axes() -> None:
    slow = (make_point("slow", "dense", 0.5, 9_000.0, 9_000.0),)

    descriptions = re.findall(r"on a latency axis from 0 to ([^.]+\.\d+)", page_of({}, {"points": slow}))

    assert len(descriptions) == 4
    assert len(set(descriptions)) == 1


@pytest.mark.parametrize("field", ["name", "method", "model", "data", "target", "date"])
def test_a_hostile_text_in_any_field_stays_text(field: str) -> None:
    document = document_of({field: HOSTILE})

    assert (document.count("script"), document.count("img")) == (1, 0)


def test_hostile_names_of_points_layers_settings_and_versions_stay_text() -> None:
    layer = LayerChoice(name=HOSTILE, kind="conv", channels=1, kept_channels=1, dense_us=1.0, kept_us=1.0)
    chosen = make_point(HOSTILE, "chosen", 0.9, 1.0, 1.0, (layer,))

    document = document_of({"points": (chosen,), "settings": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}})

    assert (document.count("script"), document.count("img")) == (1, 0)
    assert document.text.count(HOSTILE) >= 6


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(POINTS, max_size=5).map(tuple),
    st.fixed_dictionaries(
        {name: LATENCIES for name in ("budget_us", "measured_us", "predicted_us", "baseline_measured_us")}
    ),
)
def test_any_numbers_make_a_closed_page_without_nan_or_infinity(
    points: tuple[ModelPoint, ...], latencies_us: dict[str, object]
) -> None:
    markup = page_of({"points": points, **latencies_us})

    document = Document(markup)
    numbers = re.findall(r'<td class="number">([^<]*)</td>', markup)
    drawn = [document.attribute(name) for name in ("x", "y", "x1", "x2", "y1", "y2", "width", "height", "cx", "cy")]
    assert document.open == []
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", value) for values in drawn for value in values)
    assert not any(re.search("nan|inf", number) for number in numbers)


def test_the_page_refers_to_nothing_outside_itself() -> None:
    markup = page_of({}, {})

    assert re.findall(r"https?:|[\"'(=]\s*//|url\(|@import|\bsrc=", markup) == []


def test_the_page_forbids_itself_every_connection() -> None:
    policy = next(text for text in document_of({}).attribute("content") if "default-src" in text)

    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_ids_are_unique_and_every_reference_to_one_is_met() -> None:
    document = document_of({}, {})
    ids = document.attribute("id")

    references = {name for names in document.attribute("aria-labelledby") for name in names.split()}
    assert len(ids) == len(set(ids))
    assert references <= set(ids)


def test_every_figure_has_a_title_and_a_description() -> None:
    document = document_of({})

    figures = [attributes for tag, attributes in document.elements if tag == "svg" and attributes.get("role") == "img"]
    assert len(figures) == document.count("desc") == 6
    assert all(attributes["aria-labelledby"] for attributes in figures)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground"),
    [("ink", "card"), ("quiet", "card"), ("quiet", "ground"), ("accent", "card"), ("accent", "accent-soft"),
     ("warn", "card"), ("warn", "warn-soft")],
)  # fmt: skip
def test_text_has_the_contrast_that_wcag_asks_for(scheme: str, ink: str, ground: str) -> None:
    colours = palette(page_of({}), scheme)

    assert contrast(colours[ink], colours[ground]) >= 4.5


def palette(markup: str, scheme: str) -> dict[str, str]:
    """The colours of the style sheet: the first set is the light one."""
    sets = re.findall(r":root \{(.*?)\}", markup, flags=re.DOTALL)
    return dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6});", sets[scheme == "dark"]))


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2, 1.4.3)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
