"""The picture of a profile shows every family of layers as measured, is one file, and is drawn by a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.profile.yardstick import YARDSTICK
from edgekit.report.picture import write_picture
from edgekit.report.profile_plot import panels, profile_page, write_profile_plot
from edgekit.types import Correction, Profile, UnitSpec
from tests.profile.networks import add, conv, correction_of, dense, global_pool, profile, residual
from tests.report.test_page import HOSTILE, Document
from tests.report.test_picture import brightness_of, colours_of, needs_browser

WIDTHS = (8, 16, 24, 32)


def staircase_us(unit: UnitSpec) -> float:
    """Blocks of 16 output channels, as kernels have them."""
    return 0.2 * unit.input_shape[0] * -(-unit.output_shape[0] // 16)


def squares(in_widths: Iterable[int], out_widths: Sequence[int] = WIDTHS) -> list[UnitSpec]:
    return [conv(in_width, 14, out_width) for in_width in in_widths for out_width in out_widths]


def profile_of(units: Iterable[UnitSpec]) -> Profile:
    return profile({unit: staircase_us(unit) for unit in units})


def full_profile() -> Profile:
    """Families of every kind, in both number formats, with a correction and a taint."""
    units = [
        *squares(WIDTHS),
        *(conv(i, 14, o, kernel=1, stride=2, activation="none") for i in WIDTHS for o in WIDTHS),
        *(conv(width, 14, width, groups=width) for width in WIDTHS),
        *(add(width, 14) for width in WIDTHS),
        *(global_pool(width, 7) for width in WIDTHS),
        *(dense(width, 10) for width in WIDTHS),
        conv(1, 28, 8, kernel=5),
        YARDSTICK,
    ]
    correction = Correction(overhead_us=1.0, scale=1.1, network_count=12, median_error=0.02, max_error=0.05)
    whole = profile_of([*units, *(unit.in_format("int8") for unit in units)])
    return msgspec.structs.replace(
        whole, corrections=(correction_of(residual(), correction),), tainted=("load was 4.0 on 2 cores",)
    )


def test_layers_that_differ_in_width_alone_share_a_panel() -> None:
    found = panels(profile_of([*squares(WIDTHS), *(add(width, 14) for width in WIDTHS)]))

    assert [len(panel.series) for panel in found] == [4, 1]
    assert [series.fixed_width for series in found[0].series] == list(WIDTHS)


def test_layers_of_another_kernel_stride_image_or_format_have_panels_of_their_own() -> None:
    units = [
        unit
        for width in WIDTHS
        for unit in (
            conv(8, 14, width),
            conv(8, 14, width, kernel=1),
            conv(8, 14, width, stride=2),
            conv(8, 7, width),
            conv(8, 14, width).in_format("int8"),
        )
    ]

    assert len(panels(profile_of(units))) == 5


def test_a_layer_whose_outputs_never_change_is_drawn_over_its_inputs() -> None:
    (panel,) = panels(profile_of(dense(width, 10) for width in WIDTHS))

    assert panel.varies_input and [width for width, _ in panel.series[0].points] == list(WIDTHS)


def test_a_layer_of_one_width_has_no_panel() -> None:
    assert panels(profile_of([conv(1, 28, 8, kernel=5), YARDSTICK])) == ()


def test_the_slowest_family_comes_first() -> None:
    slow, fast = ([conv(8, size, width) for width in (8, 16)] for size in (28, 7))
    prices = {unit: price for units, price in ((fast, 1.0), (slow, 9.0)) for unit in units}

    assert [panel.largest_us for panel in panels(profile(prices))] == pytest.approx([9.0, 1.0])


def test_every_measured_unit_of_a_panel_has_a_mark_with_its_time() -> None:
    whole = full_profile()

    document = Document(profile_page(whole).replace("\N{NARROW NO-BREAK SPACE}", " "))

    drawn = sum(len(series.points) for panel in panels(whole) for series in panel.series)
    assert document.attribute("class").count("mark") == drawn == 2 * (16 + 16 + 4 * 4 + 1) - 2
    assert "8 → 16\n1.60 µs measured" in document.text


def test_marks_stand_in_the_order_of_their_times() -> None:
    page = profile_page(profile({conv(8, 14, 8): 1.0, conv(8, 14, 16): 2.0, conv(8, 14, 24): 4.0}))

    low, middle, high = (float(y) for y in re.findall(r'<circle[^>]* cy="([\d.]+)"', page))
    assert low - high == pytest.approx(3 * (low - middle), abs=0.05)


def test_the_page_tells_device_version_error_and_taint() -> None:
    text = Document(profile_page(full_profile())).text

    for words in ("cpu on onnxruntime 1.0", "Test CPU", "error on residual, fp32", "load was 4.0 on 2 cores"):
        assert words in text


def test_a_profile_without_families_says_so() -> None:
    assert "No layer of this profile" in Document(profile_page(profile({}))).text


def test_the_page_refers_to_nothing_outside_itself_and_forbids_it() -> None:
    markup = profile_page(full_profile())

    policy = next(text for text in Document(markup).attribute("content") if "default-src" in text)
    assert re.findall(r"https?:|[\"'(=]\s*//|url\(|@import|\bsrc=|\bstyle=", markup) == []
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy


def test_hostile_texts_stay_text() -> None:
    fitted = correction_of(
        msgspec.structs.replace(residual(), name=HOSTILE),
        Correction(overhead_us=1.0, scale=1.1, network_count=12, median_error=0.02, max_error=0.05),
    )
    hostile = msgspec.structs.replace(
        full_profile(), target=HOSTILE, runtime_version=HOSTILE, date=HOSTILE, corrections=(fitted,), tainted=(HOSTILE,)
    )

    document = Document(profile_page(hostile))

    assert (document.count("script"), document.count("img")) == (1, 0)


def test_ids_are_unique_and_every_picture_is_described() -> None:
    document = Document(profile_page(full_profile()))
    ids = document.attribute("id")

    references = {name for names in document.attribute("aria-labelledby") for name in names.split()}
    assert len(ids) == len(set(ids)) and references <= set(ids)
    assert document.count("desc") == document.count("svg") == len(panels(full_profile()))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 9e11), min_size=2, max_size=5))
def test_any_times_make_a_closed_page_with_finite_coordinates(times_us: list[float]) -> None:
    prices = {conv(8, 14, 8 * (index + 1)): us for index, us in enumerate(times_us)}

    document = Document(profile_page(profile(prices)))

    drawn = [document.attribute(name) for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy")]
    assert document.open == []
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", value) for values in drawn for value in values)


def test_fifty_fixed_widths_are_not_all_named() -> None:
    widths = range(8, 408, 8)

    page = profile_page(profile_of(squares(widths, (8, 16))))

    names = re.findall(r'class="series-name">(\d+)<', page)
    assert names[0] != names[-1] and 2 < len(names) < 12 and "400" in names


@pytest.mark.parametrize("name", ["picture", "picture.svg", "picture.json"])
def test_an_output_that_is_no_page_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.html"):
        write_profile_plot(profile({}), tmp_path / name)

    assert not (tmp_path / name).exists()


@needs_browser
@pytest.mark.parametrize(("width_px", "dark"), [(1280, False), (390, True)])
def test_the_picture_is_drawn_and_the_console_stays_empty(tmp_path: Path, width_px: int, dark: bool) -> None:
    page = write_profile_plot(full_profile(), tmp_path / "profile.html")

    console = write_picture(page, tmp_path / "profile.png", width_px=width_px, height_px=1400, dark=dark)

    assert console == ()
    assert colours_of(tmp_path / "profile.png") > 40
    assert (brightness_of(tmp_path / "profile.png") < 128) == dark
