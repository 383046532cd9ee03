"""What all figures share: an SVG drawn once for a wide column and once for a phone, its title and its description.

The style sheet shows the drawing that fits. What a figure is about is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edgekit.report.markup import Attribute, Markup, element, join


class Layout(msgspec.Struct, frozen=True):
    """The width that a figure is drawn for, in pixels at scale 1."""

    name: str
    width: float

    @property
    def is_narrow(self) -> bool:
        """Whether text must go above the marks instead of beside them."""
        return self.width < 600


WIDE = Layout("wide", 800.0)
NARROW = Layout("narrow", 400.0)

Draw = Callable[[Layout], tuple[float, Markup]]
"""Draws a figure for one layout: its height in pixels, and its marks."""


def figure(anchor: str, title: str, description: str, draw: Draw) -> Markup:
    """Both drawings of one figure. ``anchor`` is unique on the page; the description is what a listener hears."""
    drawings = (_drawing(f"{anchor}-{layout.name}", title, description, layout, draw) for layout in (WIDE, NARROW))
    return element("div", {"class": "drawings"}, *drawings)


def captioned(content: str, caption: str) -> Markup:
    """A figure or table of figures with the sentence that says how to read it."""
    return element("figure", None, content, element("figcaption", None, caption))


def line(start: tuple[float, float], end: tuple[float, float], style: str) -> Markup:
    """A straight line with the CSS class ``style``."""
    return element("line", {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1], "class": style})


def rectangle(left: float, top: float, width: float, height: float, style: str, radius: float = 0.0) -> Markup:
    """A rectangle with the CSS class ``style``; a negative width or height is none."""
    size: dict[str, Attribute] = {"width": max(width, 0.0), "height": max(height, 0.0), "rx": radius or None}
    return element("rect", {"x": left, "y": top, **size, "class": style})


def label(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> Markup:
    """Text whose baseline starts, ends or is centred (``middle``) at (x, y)."""
    position: dict[str, Attribute] = {"x": x, "y": y, "text-anchor": None if anchor == "start" else anchor}
    return element("text", {**position, "class": style or None}, text)


def group(style: str, hint: str, *children: str) -> Markup:
    """Marks that belong together, with the text that is shown when they are pointed at."""
    return element("g", {"class": style}, element("title", None, hint), *children)


def _drawing(anchor: str, title: str, description: str, layout: Layout, draw: Draw) -> Markup:
    height, marks = draw(layout)
    title_id, description_id = f"{anchor}-title", f"{anchor}-desc"
    attributes: dict[str, Attribute] = {
        "class": layout.name,
        "viewBox": f"0 0 {layout.width:g} {height:g}",
        "role": "img",
        "aria-labelledby": f"{title_id} {description_id}",
    }
    words = (element("title", {"id": title_id}, title), element("desc", {"id": description_id}, description))
    return element("svg", attributes, join(words), marks)
