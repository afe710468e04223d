"""Phones of unknown words."""

from __future__ import annotations

import subprocess

import pytest

from lmu_asr.errors import LangError
from lmu_asr.lang.g2p import ipa_to_arpabet, pronounce


@pytest.mark.parametrize(
    ("ipa", "phones"),
    [
        ("həlˈoʊ", "HH AH L OW"),
        ("tʃˈiːz", "CH IY Z"),
        ("bˈɜːd", "B ER D"),
        ("fˈaɪɚ", "F AY ER"),
        ("hˈɔːɹs", "HH AO R S"),
        ("tˈɛmpɚɹəl", "T EH M P ER AH L"),
        ("bˈʌʔn̩", "B AH T AH N"),
        ("(fr)naɪˈiːv(en-us)", "N AY IY V"),
        ("", ""),
        ("kʘt", ""),
    ],
)
def test_ipa(ipa: str, phones: str) -> None:
    assert " ".join(ipa_to_arpabet(ipa)) == phones


def test_words() -> None:
    found = pronounce(["hello", "x-ray", "lmu", "don't", "'", "stone"])
    assert found["hello"] == ("HH", "AH", "L", "OW")
    assert found["lmu"] == ("EH", "L", "EH", "M", "Y", "UW")
    assert found["x-ray"] == ("EH", "K", "S", "R", "EY")
    assert found["don't"] == ("D", "OW", "N", "T")
    assert found["stone"] == ("S", "T", "OW", "N")
    assert "'" not in found
    assert pronounce([]) == {}


def test_espeak_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess([], 1, b"", b"Traceback\nOSError: no library\n")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(LangError, match=r"0 of 1 words \(OSError: no library\)"):
        pronounce(["word"])
