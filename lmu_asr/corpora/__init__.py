"""The corpora, one module each: where speech comes from and how it is split."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lmu_asr.errors import ConfigError

if TYPE_CHECKING:  # the synthesis worker imports this package and must stay light
    from lmu_asr.config import CorpusConfig
    from lmu_asr.corpora.base import Corpus
    from lmu_asr.data.importing.text_rule import TextRule


def corpus_names() -> list[str]:
    """Return the names of all corpora: the modules of this package that define ``CORPUS``."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return [p.stem for p in modules if "\nCORPUS = " in p.read_text(encoding="utf-8")]


def check_corpus(name: str) -> None:
    """Refuse a name that no corpus has, without the time that the corpora take to load.

    Raises:
        ConfigError: no corpus has that name; the message holds the closest one.
    """
    names = corpus_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"corpus.name={name}: want one of {', '.join(names)}{hint}")


def get_corpus(name: str) -> Corpus:
    """Return the corpus called ``name``.

    Raises:
        ConfigError: no corpus has that name.
    """
    check_corpus(name)
    return cast("Corpus", importlib.import_module(f"lmu_asr.corpora.{name}").CORPUS)


def text_rule(config: CorpusConfig) -> TextRule:
    """Return how transcripts, and text for the language model, become the text of the recipe.

    ``corpus.text`` names a rule, or leaves it to the corpus.
    """
    from lmu_asr.corpora.text import RULES
    from lmu_asr.data.importing.text_rule import TextRule

    if config.text in RULES:
        return RULES[config.text]
    return TextRule.of(get_corpus(config.name).normalize)
