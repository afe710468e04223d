"""The corpora, one module each: where speech comes from and how it is split."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, cast

from lmu_asr.errors import ConfigError

if TYPE_CHECKING:  # the synthesis worker imports this package and must stay light
    from lmu_asr.corpora.base import Corpus

NAMES = ("mini", "librispeech", "own")


def get_corpus(name: str) -> Corpus:
    """Return the corpus called ``name``.

    Raises:
        ConfigError: no corpus has that name; the message holds the closest one.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"corpus.name={name}: want one of {', '.join(NAMES)}{hint}")
    return cast("Corpus", importlib.import_module(f"lmu_asr.corpora.{name}").CORPUS)
