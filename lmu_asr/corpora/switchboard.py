"""Switchboard-1 release 2 (LDC97S62) with the Mississippi State transcripts, and eval2000.

300 hours of telephone conversations, two sides in one 8 kHz file. Training and dev come from
``sw<call>{A,B}-ms98-a-trans.text``; the first 4,000 utterances are dev, as in Kaldi. The test set
is Hub5 2000 (LDC2002S09, LDC2002T43): ``hub5e00.english.000405.stm`` and its audio.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.text import normalize_english
from lmu_asr.data.manifests import Utterance, from_utterances, segment_seconds
from lmu_asr.errors import DataError
from lmu_asr.files import files_below
from lmu_asr.text_lines import text_lines

DEV_UTTERANCES = 4000
# written in many ways, said in few; scoring counts each group as one word and as optional
HESITATIONS = frozenset(
    {"uh", "um", "eh", "mm", "hm", "ah", "huh", "ha", "er", "oof", "hee", "ach", "eee", "ew"}
)
ASSENT = {"uh-huh": "uhhuh", "um-hum": "umhum", "uh-oh": "uhoh"}  # words, with a hyphen inside


class Switchboard:
    """The splits ``train``, ``dev``, and ``eval2000`` where its directory is below too."""

    name = "switchboard"
    language = "en"
    license_note = "Switchboard: licensed by the Linguistic Data Consortium, https://ldc.upenn.edu"

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Say how to have it.

        Raises:
            DataError: always.
        """
        raise DataError(
            "Switchboard is licensed: obtain LDC97S62 (and LDC2002S09, LDC2002T43 for eval2000) "
            "from https://ldc.upenn.edu, the transcripts swb_ms98_transcriptions from "
            "https://www.openslr.org/5, put them in one directory, and name it with "
            "--set corpus.source=DIR"
        )

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Return what is there (see :class:`lmu_asr.corpora.base.Corpus`)."""
        audio = {p.stem.lower(): p for p in sorted(files_below(source, "*.sph"))}
        files = sorted(files_below(source, "sw*-ms98-a-trans.text"))
        if not files:
            raise DataError(f"{source}: no sw*-ms98-a-trans.text in it or below")
        spoken = sorted((u for f in files for u in _conversation(f, audio)), key=lambda u: u.id)
        dev = min(DEV_UTTERANCES, len(spoken) // 10)
        splits = {"train": from_utterances(spoken[dev:]), "dev": from_utterances(spoken[:dev])}
        for stm in sorted(files_below(source, "hub5e00.english*.stm"))[:1]:
            splits["eval2000"] = from_utterances(_evaluation(stm, audio))
        return splits

    def normalize(self, text: str) -> str:
        """Spoken words alone, lower case: no sounds, no hesitations, no partial words."""
        return normalize_swb(text)


def normalize_swb(text: str) -> str:
    """Normalise a Mississippi State or Hub5 transcript.

    Sounds (``[laughter]``, ``<b_aside>``) and partial words (``th[is]-``) go; of words spoken
    while laughing (``[laughter-yes]``) and of mispronounced ones (``[said/meant]``) the word
    stays, the one that was said; variant marks (``because_1``) and coinages (``{alrighty}``)
    lose their marks; hesitations go, for scoring makes them optional; ``(%hesitation)`` too.
    """
    text = text.lower()
    text = re.sub(r"\[laughter-([^\]]*\[[^\]]*\][^\]]*|[^\]]*)\]", r"\1", text)
    text = re.sub(r"\[([^\]/\s]*)/[^\]\s]*\]", r"\1", text)
    text = re.sub(r"\S*\[[^\]]*\]\S*", " ", text)  # sounds, and words said in part
    text = re.sub(r"[{}]|_\d+|<[^>]*>|%hesitation", " ", text)
    words = (ASSENT.get(w.strip("()"), w) for w in text.split() if w.strip("-") == w)
    kept = normalize_english(" ".join(words).replace("&", " and ")).split()
    return " ".join(word for word in kept if word not in HESITATIONS)


def _conversation(path: Path, audio: dict[str, Path]) -> Iterator[Utterance]:
    """Yield the utterances of one side: ``sw2001A-ms98-a-0001 0.000000 0.977625 words``."""
    for number, line in text_lines(path):
        fields = [*line.split(maxsplit=3), ""]
        match = re.fullmatch(r"sw(\d{4})([AB])-ms98-a-\w+", fields[0])
        if match is None or len(fields) < 4:
            raise DataError(f"{path}:{number}: not a transcript line: {line[:80]}")
        if not normalize_swb(fields[3]):
            continue  # silence and noise alone
        call, side = match.groups()
        # the audio of LDC97S62 has five digits, sw02001.sph, the transcripts have four
        file = audio.get(f"sw0{call}") or audio.get(f"sw{call}") or path.with_name(f"sw0{call}.sph")
        speaker, channel = f"sw{call}{side}", "AB".index(side)
        start, end = segment_seconds(fields[1], fields[2], f"{path}:{number}")
        yield Utterance(fields[0], file, fields[3], speaker, start, end, channel)


def _evaluation(stm: Path, audio: dict[str, Path]) -> Iterable[Utterance]:
    """Yield the scored segments: ``en_4156 A en_4156_A 301.85 302.48 <O,en,F,en-F> words``."""
    for number, line in text_lines(stm):
        fields = [*line.split(maxsplit=6), ""]
        if line.startswith(";;") or len(fields) < 7 or "IGNORE_TIME" in line.upper():
            continue
        name, side, speaker = fields[0].lower(), fields[1], fields[2]
        file = audio.get(name) or stm.with_name(f"{name}.sph")
        if normalize_swb(fields[6]):
            where = f"{stm}:{number}"
            start, end = segment_seconds(fields[3], fields[4], where)
            if side.upper() not in ("A", "B"):
                raise DataError(f"{where}: channel is '{side}', want A or B")
            key = f"{speaker}-{number:06d}"
            yield Utterance(key, file, fields[6], speaker, start, end, "AB".index(side.upper()))


CORPUS = Switchboard()
