"""A picture of a report, taken by a Chromium that is already on the machine, and what the page said to its console.

Only documentation and tests need this; a report is complete without it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from edgekit.errors import EdgekitError, UsageError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT_SECONDS = 120
_OPTIONS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)
_CONSOLE_LINE = re.compile(r"CONSOLE[:(]\d+\)?\] (.*)$")


def find_browser() -> str | None:
    """The first Chromium on the search path, or None."""
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def write_picture(
    page: Path, output: Path, *, width_px: int = 1200, height_px: int = 1600, dark: bool = False
) -> tuple[str, ...]:
    """Draw the HTML file ``page`` into the PNG file ``output`` and return the lines that it wrote to the console.

    UsageError without Chromium, EdgekitError when it draws nothing.
    """
    browser = find_browser()
    if browser is None:
        raise UsageError(f"a picture needs one of {', '.join(BROWSERS)}, none is installed", "apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="edgekit-picture-") as user_data:
        command = [browser, *_OPTIONS, *_page_options(output, width_px, height_px, dark)]
        log = _run([*command, f"--user-data-dir={user_data}", page.resolve().as_uri()])
    if not output.is_file():
        raise EdgekitError(f"{output}: {browser} drew no picture of {page}", log.strip()[-400:] or None)
    return tuple(match[1] for line in log.splitlines() if (match := _CONSOLE_LINE.search(line)))


def _page_options(output: Path, width_px: int, height_px: int, dark: bool) -> list[str]:
    options = [
        f"--screenshot={output.resolve()}",
        f"--window-size={width_px},{height_px}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    ]
    # Chromium's sandbox refuses to start for the super-user, who is the usual user of a container.
    return [*options, "--no-sandbox"] if os.geteuid() == 0 else options


def _run(command: list[str]) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise EdgekitError(f"{command[0]} took more than {_TIMEOUT_SECONDS} s to draw a picture") from error
    return finished.stderr.decode("utf-8", "replace")
