"""Compile an HLG of a large vocabulary and decode with it: time, memory, real-time factor.

    python -m tests.benchmarks.graphs [--words N] [--sentences N] [--utterances N] [--work DIR]

The lexicon (random syllables over 40 phones) and the text behind the 3-gram (words by Zipf's law)
are made here from one seed. Prints a Markdown table; see docs/benchmarks-graphs.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch

from lmu_asr.config import GraphConfig, LangConfig
from lmu_asr.fsa.graphs import Graph, compile_graph
from lmu_asr.fsa.hypothesis import Hypothesis
from lmu_asr.fsa.openfst import OpenFstEngine
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.ngram import train_ngram, write_arpa
from lmu_asr.lang.prepare import prepare_lang

FRAME_SECONDS = 0.04
CONSONANTS = [f"C{i}" for i in range(25)]
VOWELS = [f"V{i}" for i in range(15)]


def make_lexicon(words: int, rng: np.random.Generator) -> list[tuple[str, list[str]]]:
    """Words of 2 to 4 consonant-vowel syllables with an optional last consonant; few homophones."""
    entries = []
    for index in range(words):
        phones: list[str] = []
        for _ in range(rng.integers(2, 5)):
            phones += [str(rng.choice(CONSONANTS)), str(rng.choice(VOWELS))]
        if rng.random() < 0.5:
            phones.append(str(rng.choice(CONSONANTS)))
        entries.append((f"w{index:06d}", phones))
    return entries


def make_sentences(words: int, count: int, rng: np.random.Generator) -> list[str]:
    """Sentences of 8 to 15 words; word r has probability in proportion to 1 / (r + 10)."""
    weights = 1.0 / (np.arange(words) + 10.0)
    lengths = rng.integers(8, 16, size=count)
    drawn = rng.choice(words, size=int(lengths.sum()), p=weights / weights.sum())
    ends = np.cumsum(lengths)
    return [
        " ".join(f"w{i:06d}" for i in drawn[begin:end])
        for begin, end in zip(ends - lengths, ends, strict=True)
    ]


def make_log_probs(lang: Lang, text: str, frames: int, rng: np.random.Generator) -> torch.Tensor:
    """(T, V) peaked log probabilities of ``text``, one phone in 20 replaced by another."""
    ids = lang.encode(text)
    logits = rng.normal(size=(frames, lang.vocab_size))
    logits[:, 0] += 6.0
    where = np.sort(rng.choice(frames // 2, size=len(ids), replace=False)) * 2
    for frame, token in zip(where, ids, strict=True):
        heard = token if rng.random() > 0.05 else rng.integers(1, lang.vocab_size)
        logits[frame, 0] -= 6.0
        logits[frame, heard] += 6.0
        logits[frame, token] += 3.0
    return torch.log_softmax(torch.from_numpy(logits), -1).float()


def decode(graph: Graph, lang: Lang, count: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the real-time factor on one thread and the word accuracy."""
    texts = [" ".join(s.split()[:4]) for s in make_sentences(len(lang.words) - 4, count, rng)]
    texts = [text for text in texts if all(word in lang.pronunciations for word in text.split())]
    batch = torch.stack([make_log_probs(lang, text, 100, rng) for text in texts])
    lens = torch.full((len(texts),), 100)
    begin = time.perf_counter()
    hyps: list[Hypothesis] = OpenFstEngine().decode(batch, lens, graph, SearchOptions())
    seconds = time.perf_counter() - begin
    right = sum(
        h == r for hyp, text in zip(hyps, texts, strict=True)
        for h, r in zip(hyp.words, text.split(), strict=False)
    )  # fmt: skip
    return seconds / (len(texts) * 100 * FRAME_SECONDS), right / sum(
        map(len, map(str.split, texts))
    )


def prepare(args: argparse.Namespace, rng: np.random.Generator) -> tuple[Lang, Path]:
    """Make lexicon, text, lang directory and ARPA file under ``args.work``."""
    args.work.mkdir(parents=True, exist_ok=True)
    entries = make_lexicon(args.words, rng)
    lexicon = args.work / "lexicon-source.txt"
    lexicon.write_text("".join(f"{word} {' '.join(phones)}\n" for word, phones in entries))
    sentences = make_sentences(args.words, args.sentences, rng)
    begin = time.perf_counter()
    config = LangConfig(unit="phone", lexicon=str(lexicon))
    lang = prepare_lang(config, [word for word, _ in entries], [], args.work / "lang")
    logging.info("lang directory: %.1f s", time.perf_counter() - begin)
    begin = time.perf_counter()
    model = train_ngram([*sentences, *(word for word, _ in entries)], 3)
    arpa = args.work / "G.arpa"
    write_arpa(model, arpa)
    logging.info("3-gram %s: %.1f s", model.counts, time.perf_counter() - begin)
    print(f"n-grams of order 1, 2, 3: {model.counts}, together {sum(model.counts):,}")
    return lang, arpa


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=200_000)
    parser.add_argument("--sentences", type=int, default=60_000)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--work", type=Path, default=Path("exp/benchmark-graphs"))
    parser.add_argument("--reuse", action="store_true", help="take lang and G.arpa as they are")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    if args.reuse:
        lang, arpa = Lang.load(args.work / "lang"), args.work / "G.arpa"
    else:
        lang, arpa = prepare(args, rng)
    child = os.fork()
    if not child:  # a process of its own, so that its peak memory is the compilation's
        begin = time.perf_counter()
        graph = compile_graph("HLG", lang, arpa, args.work / "HLG.fst", GraphConfig())
        seconds = time.perf_counter() - begin
        print("| step | states | arcs | seconds | peak MiB |\n|---|---|---|---|---|")
        for step in graph.steps:
            print(
                f"| {step.name} | {step.states:,} | {step.arcs:,} | {step.seconds:.1f} |"
                f" {step.peak_mib:,.0f} |"
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| all, ARPA to file | | | {seconds:.1f} | {peak:,.0f} |", flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("compilation failed")
    begin = time.perf_counter()
    graph = Graph.load(args.work / "HLG.fst", lang)
    print(f"loaded in {time.perf_counter() - begin:.1f} s")
    for peaked in (decode(graph, lang, args.utterances, np.random.default_rng(2)),):
        print(f"real-time factor {peaked[0]:.4f} on one thread, words right {peaked[1]:.3f}")


if __name__ == "__main__":
    main()
