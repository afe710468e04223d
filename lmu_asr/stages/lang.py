"""Stage 2: tokenizer, lexicon and lang directory."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lmu_asr.errors import DataError
from lmu_asr.stages.common import Context, Stage, program
from lmu_asr.text_lines import language_lines, read_transcripts

if TYPE_CHECKING:
    from lmu_asr.lang.spelling import Spelling


def run(context: Context) -> None:
    """Build and validate the lang directory from the training text and the LM's words."""
    from lmu_asr.lang.prepare import prepare_lang
    from lmu_asr.lang.validate import validate_lang

    texts = list(train_texts(context))
    config = context.config.lang
    lang = prepare_lang(config, texts, lm_words(context, texts), context.lang_dir)
    validate_lang(context.lang_dir)
    logging.info(
        "lang: unit %s, %d tokens, %d words, %s",
        lang.unit,
        lang.vocab_size,
        len(lang.words),
        context.lang_dir,
    )


def train_texts(context: Context) -> Iterator[str]:
    """Transcripts of the training split, one an utterance, without perturbed copies."""
    return read_transcripts(text_path(context))


def text_path(context: Context) -> Path:
    """Kaldi-style text file of the training split."""
    return context.features_dir / f"{context.config.corpus.train}_text"


def lm_sentences(context: Context, spelling: Spelling | None = None) -> Iterator[str]:
    """Sentences of the extra language-model text, normalised as the transcripts are.

    Args:
        context: the run.
        spelling: how the training text spells words.

    Raises:
        DataError: the file cannot be read, or holds no sentence.
    """
    from lmu_asr.corpora import text_rule

    path = context.config.lm.text
    if not path:
        return
    rule = text_rule(context.config.corpus)
    found = False
    for _, line in language_lines(path):
        if sentence := rule(line):
            found = True
            yield spelling.sentence(sentence) if spelling else sentence
    if not found:
        raise DataError(f"{path}: no sentence in this file (lm.text)")


def lm_words(context: Context, texts: list[str]) -> list[str]:
    """Words of the language model beside those of the training text, the most frequent first."""
    from lmu_asr.lang.spelling import Spelling

    known = {word for text in texts for word in text.split()}
    sentences = lm_sentences(context, Spelling(known))
    counts = Counter(word for line in sentences for word in line.split())
    if context.config.lm.arpa:
        from lmu_asr.lang.user_arpa import read_user_arpa

        counts.update(read_user_arpa(context.config.lm.arpa, known).new_words(known))
    room = max(context.config.lm.max_words - len(known), 0)
    # ties by the word, so that every run cuts at the same one
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, _ in ranked if word not in known][:room]


def inputs(context: Context) -> Iterable[Path]:
    """The user's own lexicon and language-model text."""
    config = context.config
    names = (config.lang.lexicon, config.lm.text, config.lm.arpa)
    return [Path(name) for name in names if name]


STAGE = Stage(
    "lang",
    "tokenizer, lexicon and lang directory",
    run,
    stamp_dir=lambda context: context.lang_dir,
    outputs=lambda context: [
        context.lang_dir / name
        for name in (
            "tokens.txt",
            "words.txt",
            "lexicon.txt",
            "L.fst",
            "L_disambig.fst",
            "lang.json",
        )
    ],
    after=("features",),
    inputs=inputs,
)

if __name__ == "__main__":
    sys.exit(program(STAGE))
