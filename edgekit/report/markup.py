"""HTML and SVG elements in which every string is escaped unless it is already ``Markup``.

Nothing here knows what a report shows; no other module of this package writes an angle bracket.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Attribute: TypeAlias = str | int | float | bool | None

_VOID_ELEMENTS = frozenset({"br", "hr", "img", "link", "meta"})
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Control characters are no HTML, and bidirectional overrides let a name pose as another one.
_UNPRINTABLE = [*range(0x00, 0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_PRINTABLE = {code: _REPLACEMENT for code in _UNPRINTABLE if chr(code) not in "\t\n"}


class Markup(str):
    """Text that is HTML already and is not escaped again. Only this module makes it from anything but constants."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """``text`` as HTML that shows it, in an element or in a quoted attribute: unprintable characters are replaced."""
    if isinstance(text, Markup):
        return text
    # A folder's name may hold lone surrogates, which no UTF-8 file can.
    encodable = text.encode("utf-8", "replace").decode("utf-8")
    return Markup(html.escape(encodable.translate(_PRINTABLE), quote=True))


def join(parts: Iterable[str]) -> Markup:
    """The parts one after the other, each escaped unless it is ``Markup``."""
    return Markup("".join(escape(part) for part in parts))


def element(name: str, attributes: Mapping[str, Attribute] | None = None, *children: str) -> Markup:
    """One element with its children. Attributes that are None or False are left out, True ones have no value."""
    start = f"<{name}{_attribute_text(attributes or {})}>"
    if name in _VOID_ELEMENTS:
        return Markup(start)
    return Markup(f"{start}{join(children)}</{name}>")


def _attribute_text(attributes: Mapping[str, Attribute]) -> str:
    return "".join(
        f" {name}" if value is True else f' {name}="{_attribute_value(value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )


def _attribute_value(value: str | int | float) -> str:
    # Hundredths of a pixel cannot be seen; more digits only make the page larger.
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else escape(str(value))
