"""Compiled graphs on disk: what they refuse, and what compilation refuses."""

import json
from pathlib import Path

import kaldifst
import pytest
import torch

from lmu_asr.config import GraphConfig, LangConfig
from lmu_asr.errors import GraphError
from lmu_asr.fsa.graphs import Graph, compile_graph, compose_graph
from lmu_asr.fsa.openfst import OpenFstEngine
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.ngram import train_ngram, write_arpa
from lmu_asr.lang.prepare import prepare_lang
from tests.fsa.small import compile_small, make_lang

TEXT = ["go left", "go right now", "left"]


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Lang:
    return prepare_lang(LangConfig(), TEXT, [], tmp_path_factory.mktemp("lang"))


@pytest.fixture(scope="module")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "G.arpa"
    write_arpa(train_ngram(TEXT, 2), path)
    return path


@pytest.fixture
def saved(lang: Lang, arpa: Path, tmp_path: Path) -> Path:
    compile_graph("HLG", lang, arpa, tmp_path / "HLG.fst", GraphConfig())
    return tmp_path / "HLG.fst"


def spelled(lang: Lang, text: str) -> torch.Tensor:
    """(1, T, V) posteriors that spell ``text`` with a blank behind each token."""
    ids = [token for index in lang.encode(text) for token in (index, 0)]
    return torch.log_softmax(
        8.0 * torch.nn.functional.one_hot(torch.tensor(ids), lang.vocab_size), -1
    )[None]


@pytest.mark.parametrize("kind", ["H", "HL", "HLG"])
@pytest.mark.parametrize("topology", ["standard", "modified"])
def test_every_kind_decodes_what_is_spelled(
    kind: str, topology: str, lang: Lang, arpa: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"{kind}.fst"
    compile_graph(kind, lang, arpa, out, GraphConfig(topology=topology))
    log_probs = spelled(lang, "go right now")
    graph = Graph.load(out, lang)
    hyp = OpenFstEngine().decode(
        log_probs, torch.tensor([log_probs.shape[1]]), graph, SearchOptions()
    )[0]
    assert hyp.words == ["go", "right", "now"]
    assert graph.topology == topology
    assert bool(graph.lm_fingerprint) == (kind == "HLG")


def test_compilation_is_deterministic(lang: Lang, arpa: Path, saved: Path, tmp_path: Path) -> None:
    compile_graph("HLG", lang, arpa, tmp_path / "again.fst", GraphConfig())
    assert (tmp_path / "again.fst").read_bytes() == saved.read_bytes()


def test_openfst_reads_the_file(saved: Path, lang: Lang) -> None:
    fst = kaldifst.StdConstFst.read(str(saved))
    assert fst.num_states == Graph.load(saved, lang).arrays.num_states > 10


def test_graph_of_another_lang_is_refused(saved: Path, tmp_path: Path) -> None:
    other = prepare_lang(LangConfig(), ["other words"], [], tmp_path / "other")
    with pytest.raises(GraphError, match="compiled from the lang directory"):
        Graph.load(saved, other)


def test_changed_cut_and_missing_files_are_refused(saved: Path, lang: Lang) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[:-4] + b"\0\0\0\1")
    with pytest.raises(GraphError, match="differs from its description"):
        Graph.load(saved, lang)
    saved.write_bytes(data[:-16])
    with pytest.raises(GraphError, match="differs from its description"):
        Graph.load(saved, lang)
    about = json.loads(saved.with_suffix(".json").read_text())
    del about["sha256"]
    saved.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(GraphError, match="lacks sha256"):
        Graph.load(saved, lang)
    saved.unlink()
    with pytest.raises(GraphError, match="no such graph"):
        Graph.load(saved, lang)


def test_unknown_kind_and_missing_language_model(lang: Lang, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="want one of H, HL, HLG"):
        compile_graph("HG", lang, None, tmp_path / "HG.fst", GraphConfig())
    with pytest.raises(GraphError, match="needs a language model"):
        compile_graph("HLG", lang, None, tmp_path / "HLG.fst", GraphConfig())
    assert not list(tmp_path.iterdir())


def test_word_of_the_grammar_without_pronunciation_is_refused() -> None:
    lang, lexicon = make_lang([("a", ("x",)), ("b", ("y",))])
    grammar = kaldifst.compile(f"0 0 {lang.word_ids['b'] + 5} 1 0\n0 0\n")
    with pytest.raises(GraphError, match="1 words of the grammar are not in the lexicon"):
        compose_graph(lexicon, grammar, lang.vocab_size, lang.word_disambig_id + 100)


def test_grammar_without_a_sentence_is_refused() -> None:
    lang, lexicon = make_lang([("a", ("x",))])
    grammar = kaldifst.compile("0 1 1 1 0\n")  # no final state
    with pytest.raises(GraphError, match="no path"):
        compose_graph(lexicon, grammar, lang.vocab_size, lang.word_disambig_id)


def test_homophones_are_told_apart_by_the_language_model() -> None:
    small = compile_small(
        [("see", ("s", "i")), ("sea", ("s", "i")), ("the", ("t", "e"))],
        ["the sea", "the sea", "the sea", "see the sea"],
        order=2,
    )
    lang = small.lang
    ids = [lang.token_ids[t] for t in ["t", "e", "s", "i"]]
    scores = torch.nn.functional.one_hot(
        torch.tensor([[i for t in ids for i in (t, 0)]]), lang.vocab_size
    )
    log_probs = torch.log_softmax(9.0 * scores, -1)
    hyp = OpenFstEngine().decode(
        log_probs, torch.tensor([8]), small.graphs["HLG"], SearchOptions()
    )[0]
    assert hyp.words == ["the", "sea"]


def test_scaled_graphs_are_made_once_and_topologies_have_no_scale() -> None:
    small = compile_small([("a", ("x",)), ("b", ("y",))], ["a b", "a"])
    graph = small.graphs["HLG"]
    assert graph.scaled(0.5) is graph.scaled(0.5)
    assert graph.scaled(1.0) is graph
    assert graph.scaled(0.5).arrays.arcs["weight"] == pytest.approx(graph.arrays.arcs["weight"] / 2)
    assert small.graphs["H"].scaled(0.5) is small.graphs["H"]


def test_shared_beginnings_and_endings_are_merged() -> None:
    lexicon = [(f"w{c}", ("a", "b", c, "d", "e")) for c in "fghij"]
    steps = compile_small(lexicon, [word for word, _ in lexicon], 1).graphs["HLG"].steps
    states = {step.name: step.states for step in steps}
    assert states["LG"] >= 1 + 4 * 5
    assert states["determinised"] <= states["LG"] - 2 * 4  # a b is shared by all
    assert states["minimised"] <= states["determinised"] - 2 * 4  # d e too
