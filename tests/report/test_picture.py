"""A real browser draws the page without a complaint, in both colour schemes and on a narrow screen."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from PIL import Image

from edgekit.errors import UsageError
from edgekit.report import picture, write_report
from edgekit.report.picture import find_browser, write_picture
from tests.report.results import WriteRun, make_layers, make_point

needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium on this machine; apt-get install chromium draws the report in one"
)

_TELL_WIDTH = (
    'document.getElementById("screen").addEventListener("load", (event) => '
    'console.info("width " + event.target.contentDocument.documentElement.scrollWidth));'
)


@pytest.fixture
def two_runs(write_run: WriteRun, tmp_path: Path) -> Path:
    """A page on a run that met its budget and one, with hostile names and 60 layers, that missed it."""
    name = "<script>alert(1)</script>" * 3
    chosen = make_point(name, "chosen", 0.86, 402.0, 431.0, make_layers(60))
    missed = write_run("b", name=name, measured_us=431.0, budget_us=400.0, points=(chosen,))
    return write_report([write_run("a"), missed], tmp_path / "report.html")


def colours_of(path: Path) -> int:
    """Number of different colours, at least those of text smoothing."""
    with Image.open(path) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    return len(colours or [])


def brightness_of(path: Path) -> int:
    """Grey value of the page's corner, which is plain ground."""
    with Image.open(path) as image:
        value = image.convert("L").getpixel((2, 2))
    assert isinstance(value, int)
    return value


@needs_browser
@pytest.mark.parametrize(("width_px", "dark"), [(1500, False), (390, True)])
def test_the_page_is_drawn_and_the_console_stays_empty(
    two_runs: Path, tmp_path: Path, width_px: int, dark: bool
) -> None:
    console = write_picture(two_runs, tmp_path / "report.png", width_px=width_px, height_px=1200, dark=dark)

    assert console == ()
    assert colours_of(tmp_path / "report.png") > 40
    assert (brightness_of(tmp_path / "report.png") < 128) == dark


@needs_browser
@pytest.mark.parametrize("width_px", [320, 390, 800])
def test_the_page_is_no_wider_than_the_screen(two_runs: Path, tmp_path: Path, width_px: int) -> None:
    report = html.escape(re.sub(r"<meta http-equiv=[^>]*>", "", two_runs.read_text()))
    frame = f'<iframe id="screen" width="{width_px}" height="900" srcdoc="{report}"></iframe>'
    (tmp_path / "screen.html").write_text(f"<!doctype html>{frame}<script>{_TELL_WIDTH}</script>")

    console = write_picture(tmp_path / "screen.html", tmp_path / "screen.png")

    assert f'"width {width_px}"' in console[0]


@needs_browser
@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("<script>nowhere.at.all()</script>", "nowhere is not defined"),
        ("<meta http-equiv='Content-Security-Policy' content=\"script-src 'none'\"><script>1</script>", "script-src"),
    ],
)
def test_a_broken_page_is_heard_on_the_console(tmp_path: Path, broken: str, complaint: str) -> None:
    (tmp_path / "broken.html").write_text(f"<!doctype html><title>broken</title>{broken}")

    console = write_picture(tmp_path / "broken.html", tmp_path / "broken.png", width_px=300, height_px=200)

    assert complaint in " ".join(console)


@needs_browser
def test_an_empty_page_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "empty.html").write_text("<!doctype html><title>empty</title>")

    write_picture(tmp_path / "empty.html", tmp_path / "empty.png", width_px=300, height_px=200)

    assert colours_of(tmp_path / "empty.png") == 1


def test_without_a_browser_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(picture, "BROWSERS", ("no-such-browser",))

    with pytest.raises(UsageError, match="no-such-browser") as caught:
        write_picture(tmp_path / "report.html", tmp_path / "report.png")

    assert "chromium" in (caught.value.hint or "")
