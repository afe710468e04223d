"""The two engines agree: losses, gradients, best paths, scores, lattices. Needs k2."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lmu_asr.config import GraphConfig, LangConfig
from lmu_asr.errors import DataError, LangError
from lmu_asr.fsa.engine import LossEngine, get_engine, get_loss_engine
from lmu_asr.fsa.graphs import Graph, compile_graph
from lmu_asr.fsa.openfst import OpenFstEngine
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.ngram import train_ngram, write_arpa
from lmu_asr.lang.prepare import prepare_lang
from lmu_asr.models.losses.ctc import ctc_loss
from tests.fsa.small import (
    best_by_enumeration,
    compile_small,
    make_lang,
    random_log_probs,
    random_small,
)
from tests.fsa.test_openfst import loss_by_enumeration, only_token_a

pytestmark = [
    pytest.mark.k2,
    pytest.mark.skipif(importlib.util.find_spec("k2") is None, reason="k2 is not installed"),
]
WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "hundred",
    "and",
]


@pytest.fixture(scope="module")
def k2_engine() -> LossEngine:
    return get_loss_engine()


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Lang:
    return prepare_lang(LangConfig(), WORDS, [], tmp_path_factory.mktemp("lang"))


@pytest.fixture(scope="module")
def graphs(lang: Lang, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    rng = np.random.default_rng(0)
    text = [" ".join(rng.choice(WORDS, size=rng.integers(1, 8))) for _ in range(200)]
    out = tmp_path_factory.mktemp("graphs")
    write_arpa(train_ngram(text, 3), out / "G.arpa")
    for kind in ("H", "HL", "HLG"):
        compile_graph(kind, lang, out / "G.arpa", out / f"{kind}.fst", GraphConfig())
    return {kind: Graph.load(out / f"{kind}.fst", lang) for kind in ("H", "HL", "HLG")}


def peaked(lang: Lang, count: int, frames: int, seed: int) -> torch.Tensor:
    """(N, T, V) posteriors of random sentences, a tenth of the tokens disturbed."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, frames, lang.vocab_size)) * 1.5
    logits[:, :, 0] += 5.0
    for row in logits:
        ids = lang.encode(" ".join(rng.choice(WORDS, size=4)))[: frames // 2]
        where = np.sort(rng.choice(frames // 2, size=len(ids), replace=False)) * 2
        for frame, token in zip(where, ids, strict=True):
            heard = token if rng.random() > 0.1 else rng.integers(1, lang.vocab_size)
            row[frame, 0] -= 5.0
            row[frame, heard] += 5.0
            row[frame, token] += 2.0
    return torch.log_softmax(torch.from_numpy(logits), -1).float()


def gradient(
    loss: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.clone().requires_grad_()
    losses = loss(leaf.log_softmax(-1))
    losses.sum().backward()
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


def test_auto_takes_k2(k2_engine: LossEngine) -> None:
    assert get_engine("auto").name == k2_engine.name == "k2"


@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_agree(k2_engine: LossEngine, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lens = torch.from_numpy(rng.integers(40, 81, size=12))
    logits = torch.from_numpy(rng.normal(size=(12, 80, 30))).float() * 3.0
    targets = [rng.integers(1, 6, size=rng.integers(0, 15)).tolist() for _ in range(12)]
    torchs, ours = (
        gradient(lambda x, f=loss: f(x, lens, targets), logits)
        for loss in (ctc_loss, k2_engine.ctc_loss)
    )
    assert ours[0].numpy() == pytest.approx(torchs[0].numpy(), rel=1e-4)
    assert float((ours[1] - torchs[1]).norm() / torchs[1].norm()) < 1e-4
    for row, length in zip(ours[1], lens.tolist(), strict=True):
        assert row[length:].abs().sum() == 0.0


def test_loss_without_a_path_is_zero(k2_engine: LossEngine) -> None:
    logits = torch.randn(3, 3, 4)
    targets = [[1, 1, 2], [1, 2], []]
    lens = torch.tensor([3, 3, 1])
    losses, slopes = gradient(lambda x: k2_engine.ctc_loss(x, lens, targets), logits)
    assert losses[0] == 0.0 and not slopes[0].any()
    torchs = gradient(lambda x: ctc_loss(x, lens[1:], targets[1:]), logits[1:])
    assert losses[1:].numpy() == pytest.approx(torchs[0].numpy(), rel=1e-5)
    assert slopes[1:].numpy() == pytest.approx(torchs[1].numpy(), abs=1e-5)
    nothing = k2_engine.ctc_loss(logits[:1].log_softmax(-1), lens[:1], targets[:1])
    assert float(nothing) == 0.0


def test_graph_loss_sums_over_pronunciations(k2_engine: LossEngine) -> None:
    lang, _ = make_lang([("a", ("x",)), ("a", ("x", "y")), ("b", ("y",)), ("c", ("y", "y"))])
    ids = [[lang.token_ids[t] for t in text] for text in ("xy", "xyy")]
    log_probs = torch.log_softmax(torch.randn(3, 4, lang.vocab_size), -1)
    lens = torch.tensor([4, 3, 2])
    losses = k2_engine.graph_ctc_loss(log_probs, lens, ["a b", "b", "c"], lang)
    ways = [-loss_by_enumeration(log_probs[0].double().numpy(), target) for target in ids]
    assert float(losses[0]) == pytest.approx(-np.logaddexp(*ways), rel=1e-5)
    one = loss_by_enumeration(log_probs[1, :3].double().numpy(), [lang.token_ids["y"]])
    assert float(losses[1]) == pytest.approx(one, rel=1e-5)
    assert losses[2] == 0.0  # three frames are needed
    with pytest.raises(LangError, match="'d' has no pronunciation"):
        k2_engine.graph_ctc_loss(log_probs, lens, ["d", "b", "c"], lang)


def test_graph_loss_equals_the_plain_one_with_single_pronunciations(
    k2_engine: LossEngine, lang: Lang
) -> None:
    logits = torch.randn(4, 60, lang.vocab_size)
    lens = torch.tensor([60, 50, 40, 45])
    texts = ["one two", "three", "and four and", "eleven"]
    targets = [lang.encode(text) for text in texts]
    plain = gradient(lambda x: k2_engine.ctc_loss(x, lens, targets), logits)
    graph = gradient(lambda x: k2_engine.graph_ctc_loss(x, lens, texts, lang), logits)
    assert graph[0].numpy() == pytest.approx(plain[0].numpy(), rel=1e-5)
    assert graph[1].numpy() == pytest.approx(plain[1].numpy(), abs=1e-5)


def test_one_best_agrees_on_a_thousand_utterances(
    k2_engine: LossEngine, lang: Lang, graphs: dict[str, Graph]
) -> None:
    options = SearchOptions(acoustic_scale=0.9, lm_scale=0.7)
    same = equal = words = 0
    for block in range(10):
        log_probs = peaked(lang, 100, 60, block)
        lens = torch.from_numpy(np.random.default_rng(block).integers(50, 61, size=100))
        first = OpenFstEngine().decode(log_probs, lens, graphs["HLG"], options)
        second = k2_engine.decode(log_probs, lens, graphs["HLG"], options)
        for one, other in zip(first, second, strict=True):
            words += len(one.words)
            same += one.words == other.words
            equal += abs(one.score - other.score) < 1e-3
            assert not one.fallback
            assert not other.fallback
    assert words > 2500
    assert same >= 995
    assert equal >= 995


@pytest.mark.parametrize("kind", ["H", "HL", "HLG"])
def test_k2_finds_the_best_of_all_paths(k2_engine: LossEngine, kind: str) -> None:
    for seed in range(25):
        rng = np.random.default_rng(seed)
        small = random_small(rng)
        scores = random_log_probs(rng, int(rng.integers(3, 6)), small.lang.vocab_size)
        best = best_by_enumeration(scores, small, kind, lm_scale=0.6)
        options = SearchOptions(1000.0, 1000.0, 100000, lm_scale=0.6)
        log_probs, lens = torch.from_numpy(scores)[None], torch.tensor([len(scores)])
        hyp = k2_engine.decode(log_probs, lens, small.graphs[kind], options)[0]
        assert best is not None
        assert hyp.score == pytest.approx(best.score, abs=1e-3)
        if best.margin > 1e-3:
            ids = hyp.tokens if kind == "H" else [small.lang.word_ids[w] for w in hyp.words]
            assert tuple(ids) == best.output


@pytest.mark.parametrize("kind", ["HL", "HLG"])
def test_lattices_hold_the_same_sentences(
    k2_engine: LossEngine, lang: Lang, graphs: dict[str, Graph], kind: str
) -> None:
    log_probs = peaked(lang, 5, 50, 77)
    lens = torch.full((5,), 50)
    options = SearchOptions(search_beam=30.0, lattice_beam=6.0, lm_scale=0.8)
    first = OpenFstEngine().lattices(log_probs, lens, graphs[kind], options)
    second = k2_engine.lattices(log_probs, lens, graphs[kind], options)
    for one, other in zip(first, second, strict=True):
        assert one is not None and other is not None
        lists = [{p.words: p for p in lattice.pruned(4.0).nbest(50)} for lattice in (one, other)]
        assert lists[0].keys() == lists[1].keys()
        for words, path in lists[0].items():
            assert path.am_score == pytest.approx(lists[1][words].am_score, abs=2e-3)
            assert path.lm_score == pytest.approx(lists[1][words].lm_score, abs=2e-3)
        best = one.best_path()
        pairs = zip(one.confidences(best), other.confidences(other.best_path()), strict=True)
        for mine, theirs in pairs:
            assert mine == pytest.approx(theirs, abs=0.02)


def test_empty_lattice_falls_back_to_greedy(k2_engine: LossEngine) -> None:
    lexicon = [("ab", ("a", "b")), ("b", ("b",)), ("ba", ("b", "a"))]
    small = compile_small(lexicon, ["ab b", "ba"])
    good = torch.from_numpy(random_log_probs(np.random.default_rng(0), 2, small.lang.vocab_size))
    log_probs = torch.cat([only_token_a(small).clamp(min=-1e4), good[None]])
    options = SearchOptions(search_beam=50.0)
    for lens in (torch.tensor([2, 2]), torch.tensor([0, 2])):
        hyps = k2_engine.decode(log_probs, lens, small.graphs["HL"], options)
        assert [hyp.fallback for hyp in hyps] == [True, False]


def test_search_goes_on_in_halves_and_with_smaller_beams(
    k2_engine: LossEngine,
    lang: Lang,
    graphs: dict[str, Graph],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from lmu_asr.fsa import k2_engine as module

    real, tried = module._intersect, []

    def small_machine(fsa: object, inputs: list, device: object, options: SearchOptions) -> object:
        tried.append((len(inputs), options.search_beam))
        if len(inputs) > 1 or options.search_beam > 10.0:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(fsa, inputs, device, options)

    log_probs, lens = peaked(lang, 3, 40, 3), torch.tensor([40, 30, 40])
    expected = k2_engine.decode(log_probs, lens, graphs["HLG"], SearchOptions())
    monkeypatch.setattr(module, "_intersect", small_machine)
    found = k2_engine.decode(log_probs, lens, graphs["HLG"], SearchOptions())
    assert [hyp.words for hyp in found] == [hyp.words for hyp in expected]
    beams = [16.0, 9.6]
    one = [(1, beam) for beam in beams]
    assert tried == [(3, 16.0), *one, (2, 16.0), *one, *one]
    assert caplog.text.count("in halves") == 2


def test_nan_is_refused(k2_engine: LossEngine, lang: Lang, graphs: dict[str, Graph]) -> None:
    log_probs = peaked(lang, 1, 20, 0)
    log_probs[0, 3, 3] = float("nan")
    with pytest.raises(DataError, match="utterance u1: 1 of 20 frames"):
        k2_engine.decode(log_probs, torch.tensor([20]), graphs["HLG"], SearchOptions(), ["u1"])


def test_graph_is_cached_and_made_anew_for_a_new_file(
    k2_engine: LossEngine, lang: Lang, graphs: dict[str, Graph], tmp_path: Path
) -> None:
    from lmu_asr.fsa.k2_engine import k2_graph

    graphs["HL"].save(tmp_path / "G.fst")
    graph = Graph.load(tmp_path / "G.fst", lang)
    made = k2_graph(graph)
    cache = tmp_path / "G.k2.pt"
    stamp = cache.stat().st_mtime_ns
    again = k2_graph(graph)
    assert cache.stat().st_mtime_ns == stamp
    assert (made.arcs.values() == again.arcs.values()).all()
    assert made.aux_labels.tolist() == again.aux_labels.tolist()
    graphs["HLG"].save(tmp_path / "G.fst")
    other = k2_graph(Graph.load(tmp_path / "G.fst", lang))
    assert other.num_arcs != made.num_arcs
