"""Decoding and scoring of dev and test: scales from dev, every method, every file."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lmu_asr.config import Config
from lmu_asr.config_files import config_to_dict
from lmu_asr.data.batches.loaders import build_eval_loader
from lmu_asr.data.importing.list_names import check_split_names
from lmu_asr.decoding.decoder import Decoder, SplitDecode
from lmu_asr.decoding.methods import find_method
from lmu_asr.decoding.oracle import oracle_rate
from lmu_asr.decoding.overrides import marked_overrides
from lmu_asr.decoding.posteriors import Posteriors, compute_posteriors
from lmu_asr.decoding.searches.context import boosted_graphs, hot_words
from lmu_asr.decoding.searches.ngram import NgramScorer
from lmu_asr.decoding.times import hypothesis_spans, write_ctm
from lmu_asr.decoding.trained import Trained, load_trained, training_seconds
from lmu_asr.decoding.tune import Scales, Tuned, save_scales, scale_axes, tune_scales
from lmu_asr.errors import ConfigError, DataError
from lmu_asr.files import fingerprint
from lmu_asr.fsa.engine import get_engine
from lmu_asr.fsa.graphs import Graph
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang
from lmu_asr.models.head import Head
from lmu_asr.scoring.record import (
    Cost,
    Provenance,
    Rate,
    Results,
    machine,
    save_results,
    utterance_results,
)
from lmu_asr.scoring.report import write_report
from lmu_asr.scoring.score import ErrorCounts, Scores, count_errors, score_pairs, split_words
from lmu_asr.scoring.table import format_number, format_rate
from lmu_asr.scoring.transcripts import write_errs, write_recogs, write_wer_summary

FILES = (
    "recogs-*.txt",
    "errs-*.txt",
    "cer-errs-*.txt",
    "wer-summary-*.txt",
    "report-*.html",
    "words-*.ctm",
)


def run_decoding(
    config: Config,
    exp_dir: Path,
    data_dir: Path,
    lang_dir: Path,
    graph_dir: Path,
    command: str = "",
    device: torch.device | str | None = None,
) -> list[Results]:
    """Decode and score dev and test splits with every method of the configuration.

    Scales are chosen on dev before any test utterance is read, and written to ``scales.json``.

    Args:
        config: the resolved configuration.
        exp_dir: experiment directory with the checkpoint; files go to its
            ``decode``, or ``decode-<tag>``.
        data_dir: directory of ``<split>_cuts.jsonl.gz``.
        lang_dir: lang directory.
        graph_dir: directory of ``H.fst``, ``HL.fst`` and ``HLG.fst``.
        command: command line that the results table shows.
        device: where the encoder runs; None: the GPU if there is one.

    Returns:
        The results of dev and test, as written to ``results.json``.

    Raises:
        ConfigError: the dev split is also a test split, or a method is unknown.
        CheckpointError, GraphError, LangError: an input that is missing, broken or of another lang.
        ModelError: NaN among the log-probabilities; the message names the utterance.
    """
    session = Session.open(config, exp_dir, data_dir, lang_dir, graph_dir, command, device)
    session.remove_leftovers()
    dev, dev_texts = session.posteriors(config.corpus.dev)
    with dev:
        tuned, runs = session.tune(dev, dev_texts)
        results = session.score(config.corpus.dev, "dev", dev, dev_texts, tuned, runs)
    for split in config.corpus.test:
        posteriors, texts = session.posteriors(split)
        with posteriors:
            found = {m: session.decoder.search(posteriors, m, t.scales) for m, t in tuned.items()}
            results += session.score(split, "test", posteriors, texts, tuned, found)
    # written last: a decode that was killed leaves no results.json
    save_results(session.out / "results.json", results)
    return results


@dataclass(frozen=True)
class Session:
    """One run of decoding: model, decoder and directories."""

    config: Config
    exp_dir: Path
    data_dir: Path
    trained: Trained
    decoder: Decoder
    device: torch.device
    command: str

    @classmethod
    def open(
        cls,
        config: Config,
        exp_dir: Path,
        data_dir: Path,
        lang_dir: Path,
        graph_dir: Path,
        command: str = "",
        device: torch.device | str | None = None,
    ) -> Session:
        """Load everything that decoding needs; arguments as for :func:`run_decoding`."""
        check_split_names(config.corpus)
        _check_methods(config.decode.methods)
        _check_cuts(config, data_dir)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        lang = Lang.load(lang_dir)
        trained = load_trained(config, exp_dir, lang)
        decoder = make_decoder(config, lang, graph_dir, trained.model.head)
        return cls(config, exp_dir, data_dir, trained, decoder, torch.device(place), command)

    @property
    def out(self) -> Path:
        """Directory that the files go to."""
        return self.exp_dir / self.config.decode.directory

    def remove_leftovers(self) -> None:
        """Remove the log-probabilities that a killed decode left on disk."""
        for path in self.out.glob(".posteriors-*"):
            shutil.rmtree(path, ignore_errors=True)

    def posteriors(self, split: str) -> tuple[Posteriors, dict[str, str]]:
        """Run the encoder over a split: log-probabilities, and transcripts apart from them."""
        decode, features = self.config.decode, self.config.features
        loader = build_eval_loader(
            cuts_path(self.data_dir, split), decode.max_duration, num_workers=-1
        )
        chunk = round(decode.chunk_ms / features.frame_shift_ms) if decode.streaming else 0
        return compute_posteriors(
            self.trained.model, loader, self.device, chunk, self.out, name=f"encoder, {split}"
        )

    def tune(
        self, dev: Posteriors, texts: Mapping[str, str]
    ) -> tuple[dict[str, Tuned], dict[str, SplitDecode]]:
        """Choose the scales of every method on dev; returns them and their dev hypotheses."""
        tuned, best = {}, {}
        for method in self.config.decode.methods:
            tuned[method], best[method] = self._tune_method(method, dev, texts)
        keys = {
            "checkpoint": self.trained.sha256,
            "lang": self.decoder.lang.fingerprint,
            "dev": self.config.corpus.dev,
        }
        # only now, so that a sweep that fails leaves the earlier results as they were
        self.remove_files()
        save_scales(self.out / "scales.json", tuned, keys)
        return tuned, best

    def _tune_method(
        self, method: str, dev: Posteriors, texts: Mapping[str, str]
    ) -> tuple[Tuned, SplitDecode]:
        # kept, so that the chosen scales need no second search of dev
        runs: dict[Scales, SplitDecode] = {}

        def score_dev(scales: Scales) -> ErrorCounts:
            runs[scales] = self.decoder.search(dev, method, scales)
            return self._count(method, runs[scales], texts)

        # another head weighs its scores itself: there is nothing to tune
        frames = self.trained.model.head.scores_frames
        axes = scale_axes(method, self.config.decode) if frames else {}
        tuned = tune_scales(method, self.config.corpus.dev, axes, score_dev)
        return tuned, runs[tuned.scales]

    def _count(self, method: str, found: SplitDecode, texts: Mapping[str, str]) -> ErrorCounts:
        decoder = self.decoder
        refs = (split_words(decoder.reference_text(method, text)) for text in texts.values())
        hyps = (split_words(decoder.hypothesis_text(method, found.hypotheses[i])) for i in texts)
        return count_errors(refs, hyps)

    def remove_files(self) -> None:
        """Remove the files of an earlier decode, so that none is taken for one of this."""
        for pattern in (*FILES, "results.json", "scales.json"):
            for path in self.out.glob(pattern):
                path.unlink()

    def score(
        self,
        split: str,
        role: str,
        posteriors: Posteriors,
        texts: Mapping[str, str],
        tuned: Mapping[str, Tuned],
        runs: Mapping[str, SplitDecode],
    ) -> list[Results]:
        """Score every method's hypotheses of a split and write their files."""
        results = []
        for method, found in runs.items():
            scores = self._scores(method, found, texts)
            result = self._result(split, role, posteriors, tuned[method], found, scores)
            if role == "test":
                oracle = oracle_rate(self.decoder, posteriors, method, tuned[method].scales, texts)
                result = replace(result, oracle=oracle)
            results.append(result)
            self._write_files(results[-1], scores, found)
        # without a reference last in the summary, which is sorted by rate
        rates = {r.method: math.inf if r.wer.rate is None else r.wer.rate for r in results}
        write_wer_summary(self.out / f"wer-summary-{split}.txt", rates)
        return results

    def _scores(self, method: str, found: SplitDecode, texts: Mapping[str, str]) -> Scores:
        decoder, ids = self.decoder, list(texts)
        return score_pairs(
            ids,
            [decoder.reference_text(method, texts[i]) for i in ids],
            [decoder.hypothesis_text(method, found.hypotheses[i]) for i in ids],
            self.config.decode.bootstrap,
            self.config.seed,
            decoder.unit(method),
        )

    def _result(
        self,
        split: str,
        role: str,
        posteriors: Posteriors,
        tuned: Tuned,
        found: SplitDecode,
        scores: Scores,
    ) -> Results:
        corpus = self.config.corpus
        cost = Cost(
            parameters=self.trained.parameters,
            audio_seconds=posteriors.audio_seconds,
            encoder_seconds=posteriors.encoder_seconds,
            search_seconds=found.search_seconds,
            latency_ms=self.trained.latency_ms(self.config.features),
            training_seconds=training_seconds(self.exp_dir),
            threads=torch.get_num_threads(),
        )
        return Results(
            corpus=corpus.id or corpus.name,
            variant=self._row_name(),
            method=tuned.method,
            split=split,
            role=role,
            engine=self.decoder.engine.name,
            unit=self.decoder.unit(tuned.method),
            wer=Rate.of(scores.words),
            cer=Rate.of(scores.chars),
            utterances=utterance_results(scores),
            scales=tuned.chosen,
            fallbacks=found.fallbacks,
            seed=self.config.seed,
            cost=cost,
            provenance=self._provenance(),
            overrides=marked_overrides(self.config, self.exp_dir),
        )

    def _row_name(self) -> str:
        variant, tag = self.config.variant, self.config.decode.tag
        return f"{variant}+{tag}" if tag else variant

    def _provenance(self) -> Provenance:
        return Provenance(
            checkpoint=self.config.decode.checkpoint,
            checkpoint_sha256=self.trained.sha256,
            config_sha256=fingerprint(config_to_dict(self.config)),
            lang_fingerprint=self.decoder.lang.fingerprint,
            torch_version=torch.__version__,
            device=machine(self.device),
            command=self.command,
        )

    def _write_files(self, result: Results, scores: Scores, found: SplitDecode) -> None:
        name = f"{result.split}-{result.method}"
        write_recogs(self.out / f"recogs-{name}.txt", scores.words)
        write_errs(self.out / f"errs-{name}.txt", scores.words)
        write_errs(self.out / f"cer-errs-{name}.txt", scores.chars)
        write_report(self.out / f"report-{name}.html", result, scores)
        spans = {i: hypothesis_spans(h) for i, h in sorted(found.hypotheses.items())}
        # phones decoded greedily have no words in time, so there is no file
        if any(spans.values()):
            shift = self.config.features.frame_shift_ms / 1000
            seconds = self.trained.model.subsampling_factor * shift
            write_ctm(self.out / f"words-{name}.ctm", spans, seconds)
        _log_result(result)


def _check_methods(methods: Sequence[str]) -> None:
    if not methods:
        raise ConfigError("decode.methods is empty: name at least one, such as greedy")
    repeated = [m for n, m in enumerate(methods) if m in methods[:n]]
    if repeated:
        raise ConfigError(f"decode.methods names {repeated[0]!r} twice")


def _check_cuts(config: Config, data_dir: Path) -> None:
    """Find a missing split before anything is computed."""
    for split in (config.corpus.dev, *config.corpus.test):
        if not cuts_path(data_dir, split).is_file():
            have = sorted(p.name.split("_cuts")[0] for p in data_dir.glob("*_cuts.jsonl.gz"))
            raise DataError(
                f"{cuts_path(data_dir, split)}: missing; {data_dir} has {', '.join(have) or 'none'}; "
                "correct corpus.dev or corpus.test, or extract features first (stage 1)"
            )


def cuts_path(data_dir: Path, split: str) -> Path:
    """Return the manifest of a split that stage 1 leaves."""
    return data_dir / f"{split}_cuts.jsonl.gz"


def make_decoder(config: Config, lang: Lang, graph_dir: Path, head: Head) -> Decoder:
    """Load the graphs that ``decode.methods`` need, and the engine.

    Raises:
        ConfigError: a method does not serve the model's head.
    """
    decode = config.decode
    for method in decode.methods:
        if method not in head.methods:
            raise ConfigError(
                f"decode.methods: {method!r} does not serve this model's head, "
                f"{type(head).__name__}: want some of {', '.join(head.methods)}"
            )
    kinds = sorted({find_method(m).graph for m in decode.methods} - {""})
    graphs = {kind: Graph.load(graph_dir / f"{kind}.fst", lang) for kind in kinds}
    options = SearchOptions.from_config(decode)
    engine = get_engine(config.graph.fsa)
    models = _language_models(decode.methods, lang, graph_dir)
    context = None
    if decode.hot_words:
        context = hot_words(lang, decode.hot_words, decode.hot_word_boost, "token")
        graphs = boosted_graphs(graphs, lang, decode.hot_words, decode.hot_word_boost)
    return Decoder(lang, graphs, engine, options, *models, context=context, head=head)


def _language_models(
    methods: Sequence[str], lang: Lang, graph_dir: Path
) -> tuple[NgramScorer | None, NgramScorer | None]:
    """Load the n-gram of the graphs and the larger one, each None where no method needs it."""
    rescoring = [method for method in methods if find_method(method).rescores]
    larger, path = graph_dir / "G_rescore.arpa", graph_dir / "G.arpa"
    if rescoring and not larger.is_file():
        raise ConfigError(
            f"{larger} does not exist, and {rescoring[0]} needs it: set lm.rescore_order above"
            " lm.order and run stage 3 again"
        )
    # phones have no word boundary, so a prefix never tells when a word is complete
    fused = "prefix_beam" in methods and lang.unit != "phone"
    if not rescoring and not fused:
        return None, None
    if not path.is_file():
        logging.info("prefix_beam: %s does not exist: no language model is fused", path)
        return None, None
    return NgramScorer.load(path), NgramScorer.load(larger) if rescoring else None


def _log_result(result: Results) -> None:
    name = "PER" if result.unit == "phone" else "WER"
    logging.info(
        "%s, %s: %s %s %%, CER %s %%, RTF %.4f",
        result.split,
        result.method,
        name,
        format_rate(result.wer),
        format_number(result.cer.rate),
        result.cost.rtf,
    )
    if result.fallbacks:
        logging.warning(
            "%s, %s: %d of %d utterances had an empty lattice and were decoded greedily; "
            "raise decode.search_beam or decode.max_active",
            result.split,
            result.method,
            result.fallbacks,
            len(result.utterances),
        )
