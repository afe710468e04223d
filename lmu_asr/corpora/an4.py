"""AN4: about an hour of spelled names, addresses and numbers, CMU 1991.

``an4/etc/an4_{train,test}.fileids`` list the audio, ``.transcription`` the words with the file's
name in brackets. The first hundred training utterances are dev, as in ESPnet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.fetch import Archive, Downloaded
from lmu_asr.data.manifests import Utterance, from_utterances
from lmu_asr.errors import DataError
from lmu_asr.files import files_below
from lmu_asr.text_lines import filled_lines

SHA256 = "a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12"
DEV_UTTERANCES = 100


class An4(Downloaded):
    """Alphanumeric census speech, 16 kHz."""

    name = "an4"
    license_note = "AN4: free to use, Carnegie Mellon University 1991"
    bases: Sequence[str] = (
        "https://dldata-public.s3.us-east-2.amazonaws.com",
        "http://www.speech.cs.cmu.edu/databases/an4",
    )

    def archives(self, config: CorpusConfig) -> list[Archive]:
        """Return the one archive."""
        return [Archive("an4_sphere.tar.gz", f"sha256:{SHA256}")]

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Return ``train``, ``dev`` and ``test`` (see :class:`lmu_asr.corpora.base.Corpus`)."""
        train, test = _utterances(source, "train"), _utterances(source, "test")
        return {
            "train": from_utterances(train[DEV_UTTERANCES:]),
            "dev": from_utterances(train[:DEV_UTTERANCES]),
            "test": from_utterances(test),
        }


def _utterances(source: Path, split: str) -> list[Utterance]:
    etc = next(iter(sorted(files_below(source, f"an4_{split}.fileids"))), None)
    if etc is None:
        raise DataError(f"{source}: no an4_{split}.fileids in it or below")
    files = etc.read_text(encoding="utf-8").split()
    lines = filled_lines(etc.with_suffix(".transcription"))
    texts = dict(_text(line) for _, line in lines)
    return [_utterance(etc.parents[1] / "wav" / f"{f}.sph", texts) for f in files]


def _utterance(path: Path, texts: dict[str, str]) -> Utterance:
    return Utterance(path.stem, path, texts.get(path.stem, ""), path.parent.name)


def _text(line: str) -> tuple[str, str]:
    """Take ``<s> RUBOUT G M </s> (an1-xy-b)`` apart: file name and words."""
    words, _, name = line.rpartition("(")
    return name.strip().rstrip(")"), re.sub(r"</?s>", " ", words).strip()


CORPUS = An4()
