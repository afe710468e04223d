"""Stage 3: n-gram language model and decoding graphs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lmu_asr.stages.common import Context, Stage, program
from lmu_asr.stages.lang import lm_sentences, train_texts

if TYPE_CHECKING:
    from lmu_asr.lang.lang import Lang


def run(context: Context) -> None:
    """Train or take the language model, then compile the graphs."""
    from lmu_asr.fsa.graphs import compile_graph
    from lmu_asr.lang.lang import Lang

    lang = Lang.load(context.lang_dir)
    context.graph_dir.mkdir(parents=True, exist_ok=True)
    arpa = language_model(context, lang, context.config.lm.order, "G")
    if context.config.lm.rescore_order:
        language_model(context, lang, context.config.lm.rescore_order, "G_rescore")
    for kind in context.config.graph.kinds:
        out = context.graph_dir / f"{kind}.fst"
        compile_graph(kind, lang, arpa, out, context.config.graph)


def language_model(context: Context, lang: Lang, order: int, name: str) -> Path:
    """Train one n-gram model and write it as ARPA, or take the user's; returns its path."""
    from lmu_asr.lang.ngram import prune, train_ngram, write_arpa
    from lmu_asr.lang.spelling import Spelling
    from lmu_asr.lang.user_arpa import read_user_arpa

    config = context.config.lm
    path = context.graph_dir / f"{name}.arpa"
    texts = list(train_texts(context))
    words = {word for text in texts for word in text.split()}
    if config.arpa and name == "G":
        read_user_arpa(config.arpa, words).save(path)
        return path
    sentences = texts if config.train_text else []
    sentences += list(lm_sentences(context, Spelling(words)))
    model = train_ngram(sentences, order, vocabulary={word for word, _ in lang.lexicon})
    model = prune(model, config.prune) if config.prune else model
    write_arpa(model, path)
    logging.info(
        "language model: %s n-grams from %d sentences, %s",
        " + ".join(map(str, model.counts)),
        len(sentences),
        path,
    )
    return path


def outputs(context: Context) -> Iterable[Path]:
    """The language models and graphs that the configuration asks for."""
    yield context.graph_dir / "G.arpa"
    if context.config.lm.rescore_order:
        yield context.graph_dir / "G_rescore.arpa"
    for kind in context.config.graph.kinds:
        yield context.graph_dir / f"{kind}.fst"
        yield context.graph_dir / f"{kind}.json"


def inputs(context: Context) -> Iterable[Path]:
    """The user's own language-model text and ARPA file."""
    return [Path(name) for name in (context.config.lm.text, context.config.lm.arpa) if name]


STAGE = Stage(
    "graph",
    "n-gram language model and decoding graphs",
    run,
    stamp_dir=lambda context: context.graph_dir,
    outputs=outputs,
    after=("features", "lang"),
    inputs=inputs,
)

if __name__ == "__main__":
    sys.exit(program(STAGE))
