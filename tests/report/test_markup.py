"""No string becomes markup by itself: what goes in as text comes out as that text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.report.markup import Markup, element, escape, join

PRINTABLE = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cf")))


class Reader(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


@given(PRINTABLE)
def test_text_in_an_element_is_read_back_as_the_same_text(text: str) -> None:
    assert read(element("p", None, text)).text == text


@given(PRINTABLE)
def test_an_attribute_is_read_back_as_the_same_text_and_adds_no_other(text: str) -> None:
    assert read(element("p", {"title": text})).tags == [("p", {"title": text})]


@given(st.text())
def test_no_text_opens_a_tag(text: str) -> None:
    assert "<" not in escape(text)


def test_markup_is_not_escaped_again() -> None:
    assert element("p", None, element("b", None, "a < b")) == "<p><b>a &lt; b</b></p>"


def test_joined_strings_are_escaped_one_by_one() -> None:
    assert join([Markup("<br>"), "<br>"]) == "<br>&lt;br&gt;"


@pytest.mark.parametrize("text", ["\x00", "\x1b[2J", "\u202egnp.exe", "\u2066x", "\udc80"])
def test_unprintable_characters_are_replaced(text: str) -> None:
    shown = escape(text)

    assert text not in shown
    assert shown.encode("utf-8")


def test_attributes_that_are_none_or_false_are_left_out() -> None:
    assert element("p", {"a": None, "b": False, "c": True, "d": 1.50}) == '<p c d="1.5"></p>'
