"""Phones of words that no lexicon holds: espeak-ng's rules for American English, as ARPAbet.

The library comes inside the wheel of ``espeakng-loader`` and is driven through ctypes. It keeps its
state in globals and may be in use for synthesis, so it runs in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmu_asr.errors import LangError
from lmu_asr.lang.lexicon import Pronunciation

# espeak's IPA for its American voice, longest first when matched; empty: stress, length, syllabicity.
_IPA = {
    "aɪɚ": "AY ER", "aɪə": "AY AH", "aʊ": "AW", "aɪ": "AY", "eɪ": "EY", "oʊ": "OW", "əʊ": "OW",
    "ɔɪ": "OY", "dʒ": "JH", "tʃ": "CH", "ɔːɹ": "AO R", "ɑːɹ": "AA R", "oːɹ": "AO R", "ɛɹ": "EH R",
    "ɪɹ": "IH R", "ʊɹ": "UH R", "ɜːɹ": "ER", "ɚɹ": "ER", "ɜː": "ER", "ɚ": "ER",
    "ɝ": "ER", "ɜ": "ER", "iː": "IY", "i": "IY", "ɪ": "IH", "ᵻ": "IH", "ɨ": "IH", "ɛ": "EH", "e": "EH", "æ": "AE", "a": "AE", "ɑː": "AA",
    "ɑ": "AA", "ɒ": "AA", "ɐ": "AH", "ʌ": "AH", "ə": "AH", "ɔː": "AO", "ɔ": "AO", "o": "OW",
    "oː": "AO", "uː": "UW", "u": "UW", "ʊ": "UH", "y": "UW", "p": "P", "b": "B", "t": "T",
    "d": "D", "k": "K", "ɡ": "G", "g": "G", "f": "F", "v": "V", "θ": "TH", "ð": "DH", "s": "S",
    "z": "Z", "ʃ": "SH", "ʒ": "ZH", "h": "HH", "x": "K", "ç": "HH", "m": "M", "n": "N", "ŋ": "NG",
    "l": "L", "ɫ": "L", "ɬ": "L", "ɹ": "R", "r": "R", "j": "Y", "w": "W", "ʍ": "W", "ɾ": "T",
    "ʔ": "T", "n̩": "AH N", "m̩": "AH M", "l̩": "AH L", "ɲ": "N Y", "β": "V", "ɣ": "G",
    "ˈ": "", "ˌ": "", "ː": "", "ʲ": "", "\u0303": "", "\u0329": "", "-": "", "_": "", " ": "",
}  # fmt: skip
_SYMBOL = re.compile("|".join(sorted(map(re.escape, _IPA), key=len, reverse=True)))
_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")
_UTF8, _IPA_MODE, _SYNCHRONOUS = 1, 0x02, 2


def ipa_to_arpabet(ipa: str) -> Pronunciation:
    """Return the ARPAbet phones of espeak's IPA; empty where a symbol is unknown."""
    ipa = _LANGUAGE_SWITCH.sub("", ipa)
    if _SYMBOL.sub("", ipa):
        return ()
    return tuple(phone for match in _SYMBOL.finditer(ipa) for phone in _IPA[match[0]].split())


def pronounce(words: Sequence[str]) -> dict[str, Pronunciation]:
    """Return ARPAbet phones of each word that espeak-ng can spell out; other words are left out.

    Raises:
        LangError: espeak-ng cannot be run here.
    """
    if not words:
        return {}
    # capitals would make espeak read short words letter by letter
    text = "\n".join(word.lower() for word in words)
    package = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-m", "lmu_asr.lang.g2p"],
        input=text.encode(),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    lines = run.stdout.decode().split("\n")[:-1]
    if run.returncode or len(lines) != len(words):
        reason = run.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise LangError(
            f"espeak-ng gave phones of {len(lines)} of {len(words)} words ({' '.join(reason)}); "
            "add the words to lang.lexicon, or set lang.oov=refuse or drop"
        )
    spelled = zip(words, map(ipa_to_arpabet, lines), strict=True)
    return {word: phones for word, phones in spelled if phones}


def _espeak_ipa(words: Iterable[str]) -> list[str]:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    # ctypes takes results for an int, which cuts a pointer to 32 bits
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    data = str(espeakng_loader.get_data_path()).encode()
    if library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0) <= 0:
        raise LangError("espeak-ng does not start: its data directory cannot be read")
    if library.espeak_SetVoiceByName(b"en-us") != 0:
        raise LangError("espeak-ng has no voice en-us")
    return [_phonemes(library, word) for word in words]


def _phonemes(library: ctypes.CDLL, word: str) -> str:
    buffer = ctypes.create_string_buffer(word.encode())
    position = ctypes.c_void_p(ctypes.addressof(buffer))
    parts = []
    # each call translates one clause and moves the pointer behind it, at the end to NULL
    while position.value:
        parts.append(library.espeak_TextToPhonemes(ctypes.byref(position), _UTF8, _IPA_MODE))
    return b" ".join(part for part in parts if part).decode().replace("\n", " ")


def main() -> None:
    """Read words from standard input, one a line, and print one line of IPA for each."""
    words = sys.stdin.buffer.read().decode().split("\n")
    sys.stdout.buffer.write("".join(line + "\n" for line in _espeak_ipa(words)).encode())


if __name__ == "__main__":
    main()
