"""Where a name can stand beside its mark so that it hides no other mark and stays inside the figure.

Only positions are found here; nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Anchor = Literal["start", "middle", "end"]

_SHARE_BEFORE = {"start": 0.0, "middle": 0.5, "end": 1.0}
# Average width of a bold character at the size of names, in pixels; rather too wide than too narrow.
_CHARACTER_WIDTH = 8.0
_TEXT_HEIGHT = 14.0
_GAP = 12.0
_MARK_RADIUS = 6.0


class Box(msgspec.Struct, frozen=True):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two share an inner point."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def contains(self, other: Box) -> bool:
        """Whether ``other`` lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


class Place(msgspec.Struct, frozen=True):
    """Where a text's baseline starts or ends, by ``anchor``, in pixels, and the box that the text fills."""

    x: float
    baseline: float
    anchor: Anchor
    box: Box


def text_width(text: str) -> float:
    """About how wide a name is, in pixels."""
    return len(text) * _CHARACTER_WIDTH


def place_at(x: float, baseline: float, width: float, anchor: Anchor) -> Place:
    """The place of a text ``width`` wide whose start, middle or end is at (x, baseline)."""
    left = x - width * _SHARE_BEFORE[anchor]
    return Place(x, baseline, anchor, Box(left, baseline - _TEXT_HEIGHT + 3, left + width, baseline + 3))


def mark_box(x: float, y: float) -> Box:
    """The box of a mark whose centre is (x, y)."""
    return Box(x - _MARK_RADIUS, y - _MARK_RADIUS, x + _MARK_RADIUS, y + _MARK_RADIUS)


def place_name(text: str, x: float, y: float, frame: Box, taken: Sequence[Box]) -> Place:
    """The place around the mark at (x, y) where ``text`` hides the fewest of ``taken``, inside ``frame`` if it can."""
    places = _places_around(text_width(text), x, y)
    return min(places, key=lambda place: _cost(place.box, frame, taken))


def _places_around(width: float, x: float, y: float) -> list[Place]:
    above, beside, below = y - _GAP, y + 4.5, y + _GAP + 10
    columns: tuple[tuple[float, Anchor], ...] = ((x + 3, "end"), (x - 3, "start"), (x, "middle"))
    places = [place_at(left, baseline, width, anchor) for baseline in (above, below) for left, anchor in columns]
    return [*places, place_at(x - _GAP, beside, width, "end"), place_at(x + _GAP, beside, width, "start")]


def _cost(box: Box, frame: Box, taken: Sequence[Box]) -> int:
    # A name that leaves the figure is cut off, which is worse than one that hides marks.
    outside = 0 if frame.contains(box) else len(taken) + 1
    return outside + sum(box.overlaps(other) for other in taken)
