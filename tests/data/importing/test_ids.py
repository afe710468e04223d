"""Names in lines of fields."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmu_asr.data.importing.ids import escaped


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a-b_c/1.wav", "a-b_c/1.wav"),
        ("a b\t\n\0.wav", "a%20b%09%0A%00.wav"),
        ("100%20", "100%2520"),
        ("\u3000\u2028\x85\xa0", "%E3%80%80%E2%80%A8%C2%85%C2%A0"),
        ("caf\udce9", "caf%E9"),
        ("नमस्ते-\u200c", "नमस्ते-\u200c"),  # marks and joiners are part of words
    ],
)
def test_what_breaks_a_line_is_escaped(text, wanted):
    assert escaped(text) == wanted


def test_blanks_stay_where_they_may():
    assert escaped("a b\t%", keep=" ") == "a b%09%25"


@given(st.text(st.one_of(st.characters(), st.sampled_from(" %\n\t\udcff\u2029"))))
def test_one_field_that_is_printable_and_unescapes(text):
    found = escaped(text)
    assert found.split() == ([found] if text else [])
    assert found.splitlines() == ([found] if text else [])
    if not any(0xD800 <= ord(c) <= 0xDFFF and not 0xDC80 <= ord(c) <= 0xDCFF for c in text):
        assert unquote_to_bytes(found) == text.encode("utf-8", "surrogateescape")
        found.encode()
