"""Decoding of splits end to end with a model whose output is known in advance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmu_asr.config import Config, CorpusConfig, DecodeConfig, GraphConfig
from lmu_asr.data.batch import Batch
from lmu_asr.decoding import decode
from lmu_asr.decoding.decode import run_decoding
from lmu_asr.decoding.decoder import Decoder
from lmu_asr.decoding.methods import METHODS
from lmu_asr.decoding.posteriors import compute_posteriors
from lmu_asr.decoding.searches.over_graphs import Inputs, one_best
from lmu_asr.decoding.tune import Scales, load_scales
from lmu_asr.errors import ConfigError, DataError, GraphError
from lmu_asr.fsa.engine import get_engine
from lmu_asr.fsa.graphs import compile_graph
from lmu_asr.fsa.hypothesis import Hypothesis
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.lang.ngram import train_ngram, write_arpa
from lmu_asr.scoring.record import Results, load_results
from lmu_asr.scoring.transcripts import read_recogs
from tests.decoding.fakes import FakeModel, batches, make_lang

TEXTS = ["one two", "two three one", "three", "one"]
DEV = {"d1": ("one two", "one two"), "d2": ("three", "three one")}
TEST = {
    "t1": ("two three one", "two three one"),
    "t2": ("one", "one"),
    "t3": ("one two two", "one two"),
}
CONFIG = Config(
    corpus=CorpusConfig(dev="dev", test=["test"]),
    decode=DecodeConfig(methods=["greedy", "HLG"], lm_scales=[0.1, 0.4], bootstrap=100),
    graph=GraphConfig(fsa="openfst"),
)


class Bench:
    """Directories, graphs, splits, and a log of what was read when."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.splits = root, {"dev": DEV, "test": TEST}
        self.read: list[tuple[str, bool]] = []
        self.model = FakeModel()
        self.lang = make_lang(root / "lang", TEXTS)
        self._graphs()
        (root / "cuts").mkdir()
        for split in self.splits:
            (root / "cuts" / f"{split}_cuts.jsonl.gz").touch()
        monkeypatch.setattr(decode, "build_eval_loader", self.loader)
        trained = SimpleNamespace(
            model=self.model, sha256="ab" * 32, parameters=7, latency_ms=lambda _: 40.0
        )
        monkeypatch.setattr(decode, "load_trained", lambda *_: trained)

    def _graphs(self) -> None:
        arpa = self.root / "graph" / "G.arpa"
        arpa.parent.mkdir(parents=True)
        write_arpa(train_ngram(TEXTS, 2), arpa)
        for kind in ("H", "HL", "HLG"):
            compile_graph(kind, self.lang, arpa, self.root / "graph" / f"{kind}.fst", GraphConfig())
        write_arpa(train_ngram(TEXTS, 3), arpa.with_name("G_rescore.arpa"))

    def loader(self, path: Path, max_duration: float, num_workers: int = 0) -> Iterator[Batch]:
        split = path.name.removesuffix("_cuts.jsonl.gz")
        self.read.append((split, (self.out / "scales.json").is_file()))
        return batches(self.splits[split], self.lang)

    @property
    def out(self) -> Path:
        return self.root / "exp" / "decode"

    def run(self, config: Config = CONFIG) -> list[Results]:
        root = self.root
        return run_decoding(config, root / "exp", root / "cuts", root / "lang", root / "graph")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def with_decode(**changes: object) -> Config:
    return replace(CONFIG, decode=replace(CONFIG.decode, **changes))


def test_rates_by_hand(bench: Bench) -> None:
    found = {(r.split, r.method): r for r in bench.run()}
    assert set(found) == {(s, m) for s in ("dev", "test") for m in ("greedy", "HLG")}
    test = found["test", "greedy"]
    assert (test.wer.deletions, test.wer.errors, test.wer.length) == (1, 1, 7)
    assert [(u.id, u.word_errors) for u in test.utterances] == [("t1", 0), ("t2", 0), ("t3", 1)]
    assert found["dev", "greedy"].wer.insertions == 1
    assert (test.role, found["dev", "HLG"].role) == ("test", "dev")
    assert (test.engine, test.corpus, test.variant) == ("openfst", "mini", "default")


def test_files(bench: Bench) -> None:
    results = bench.run()
    assert load_results(bench.out / "results.json") == results
    recogs = read_recogs(bench.out / "recogs-test-HLG.txt")
    assert recogs["t3"] == (["one", "two", "two"], ["one", "two"])
    assert (bench.out / "errs-test-greedy.txt").read_text().startswith("%WER = 14.29\n")
    assert (bench.out / "cer-errs-dev-HLG.txt").read_text().startswith("%CER = ")
    assert (bench.out / "wer-summary-test.txt").read_text().splitlines()[0] == "settings\tWER"
    assert (bench.out / "report-test-HLG.html").is_file()
    assert not list(bench.out.glob(".*"))


def test_tagged_decodes_stand_beside_each_other(bench: Bench) -> None:
    plain = bench.run()
    before = (bench.out / "results.json").read_bytes()
    tagged = bench.run(with_decode(tag="averaged"))
    assert [r.wer for r in tagged] == [r.wer for r in plain]
    assert {r.variant for r in tagged} == {"default+averaged"}
    assert load_results(bench.out.with_name("decode-averaged") / "results.json") == tagged
    assert (bench.out / "results.json").read_bytes() == before


def test_word_times(bench: Bench) -> None:
    bench.run()
    lines = (bench.out / "words-test-HLG.ctm").read_text().splitlines()
    rows = [line.split() for line in lines if line.startswith("t3 ")]
    # "one" is the boundary and three letters, each of 4 frames of 10 ms, the last 2 of them blank
    assert [(r[2], r[3], r[4]) for r in rows] == [
        ("0.000", "0.140", "one"),
        ("0.160", "0.140", "two"),
    ]
    assert not (bench.out / "words-test-greedy.ctm").exists()


def test_methods_of_lattices_have_an_oracle(bench: Bench) -> None:
    methods = ["HLG", "nbest", "nbest_rescore", "lattice_rescore"]
    found = {r.method: r for r in bench.run(with_decode(methods=methods)) if r.role == "test"}
    assert found["HLG"].oracle is None
    for method in methods[1:]:
        result = found[method]
        assert result.oracle is not None and result.wer.rate is not None
        assert 0 <= result.oracle <= result.wer.rate
    assert found["lattice_rescore"].oracle <= found["nbest"].oracle  # the list is of the lattice


def test_oracle_by_hand(bench: Bench) -> None:
    bench.splits["test"] = {"t1": ("one two unknown", "one two")}
    result = bench.run(with_decode(methods=["lattice_rescore"]))[-1]
    assert result.oracle == pytest.approx(100 / 3)


def test_costs_and_provenance_are_recorded(bench: Bench) -> None:
    (bench.root / "exp").mkdir()
    (bench.root / "exp" / "training.json").write_text('{"seconds": 372.5}')
    result = bench.run()[-1]
    assert result.cost.audio_seconds == pytest.approx(
        sum(len(bench.lang.encode(heard)) * 0.04 for _, heard in TEST.values())
    )
    assert result.cost.encoder_seconds > 0 and result.cost.search_seconds > 0
    assert (result.cost.parameters, result.cost.latency_ms) == (7, 40.0)
    assert result.cost.training_seconds == 372.5
    made = result.provenance
    assert made.checkpoint_sha256 == "ab" * 32 and made.lang_fingerprint == bench.lang.fingerprint
    assert made.torch_version and made.device and made.config_sha256


def test_encoder_runs_once_for_all_methods_and_scales(bench: Bench) -> None:
    bench.run(with_decode(methods=["greedy", "H", "HL", "HLG"], lm_scales=[0.1, 0.2, 0.3]))
    assert bench.model.calls == 5  # one batch of dev, two of test, a warm-up for each


def test_test_split_cannot_influence_the_scales(bench: Bench) -> None:
    bench.run()
    first = (bench.out / "scales.json").read_bytes()
    assert bench.read == [("dev", False), ("test", True)]
    bench.splits["test"] = {"t9": ("three three", "one two one")}
    bench.run()
    assert (bench.out / "scales.json").read_bytes() == first


def test_dev_split_does_influence_the_scales(bench: Bench) -> None:
    config = with_decode(methods=["greedy"], blank_penalties=[-20.0, 0.0])
    bench.run(config)
    assert load_scales(bench.out / "scales.json")["greedy"].scales.blank_penalty == 0.0
    bench.splits["dev"] = {"d1": ("zzz", "one two three")}  # silence errs once, speech three times
    bench.run(config)
    tuned = load_scales(bench.out / "scales.json")["greedy"]
    assert tuned.scales.blank_penalty == -20.0
    assert [t.rate for t in tuned.trials] == [100.0, 300.0, 100.0]  # -20, 0, -40


def test_second_run_removes_what_it_does_not_make(bench: Bench) -> None:
    bench.run()
    (bench.out / ".posteriors-left").mkdir()
    bench.run(with_decode(methods=["greedy"]))
    assert not list(bench.out.glob("*HLG*")) and not list(bench.out.glob(".posteriors-*"))
    assert [r.method for r in load_results(bench.out / "results.json")] == ["greedy", "greedy"]


def test_failed_set_up_keeps_the_earlier_results(bench: Bench) -> None:
    bench.run()
    before = (bench.out / "results.json").read_bytes()
    (bench.root / "graph" / "HLG.fst").unlink()
    with pytest.raises(GraphError, match=r"HLG\.fst"):
        bench.run()
    assert (bench.out / "results.json").read_bytes() == before


def test_streaming_gives_the_same_words(bench: Bench) -> None:
    offline = [(r.method, r.utterances) for r in bench.run()]
    bench.model.calls = 0
    streamed = bench.run(with_decode(streaming=True, chunk_ms=30.0))
    assert bench.model.calls == 0
    assert [(r.method, r.utterances) for r in streamed] == offline


def test_empty_lattices_are_counted_and_logged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def search(x: Inputs) -> list[Hypothesis]:
        return [
            replace(h, fallback=i == "t2") for i, h in zip(x.ids or (), one_best(x), strict=True)
        ]

    monkeypatch.setitem(METHODS, "HLG", replace(METHODS["HLG"], search=search))
    with caplog.at_level("WARNING"):
        results = bench.run(with_decode(methods=["HLG"]))
    assert [r.fallbacks for r in results] == [0, 1]
    assert "test, HLG: 1 of 3 utterances had an empty lattice" in caplog.text


def test_failure_on_dev_keeps_the_earlier_results(bench: Bench) -> None:
    bench.run()
    before = {path.name: path.read_bytes() for path in bench.out.iterdir()}
    bench.splits["dev"] = {}
    with pytest.raises(DataError, match="no utterances"):
        bench.run()
    assert {path.name: path.read_bytes() for path in bench.out.iterdir()} == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, corpus=CorpusConfig(dev="test")), "names the dev split 'test'"),
        (replace(CONFIG, corpus=CorpusConfig(test=["a", "a"])), "names 'a' twice"),
        (with_decode(methods=[]), r"decode\.methods is empty"),
        (with_decode(methods=["greedy", "greedy"]), "names 'greedy' twice"),
    ],
)
def test_bad_configuration(bench: Bench, config: Config, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.run(config)


def test_missing_split_is_found_before_anything_is_read(bench: Bench) -> None:
    with pytest.raises(DataError, match=r"tset_cuts\.jsonl\.gz: missing; .* has dev, test;"):
        bench.run(replace(CONFIG, corpus=CorpusConfig(test=["test", "tset"])))
    assert bench.read == []


def test_phones_are_scored_as_phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("one W AH N\none HH W AH N\ntwo T UW\nthree TH R IY\n")
    lang = make_lang(tmp_path / "lang", TEXTS, "phone", str(lexicon))
    phones = Decoder(lang, {}, get_engine("openfst"), SearchOptions())
    said = {"u": ("one two four", "one three")}
    with compute_posteriors(FakeModel(), batches(said, lang))[0] as posteriors:
        found = phones.search(posteriors, "greedy", Scales()).hypotheses
    assert phones.unit("greedy") == phones.unit("H") == "phone"
    assert phones.unit("HL") == phones.unit("HLG") == "word"
    assert phones.reference_text("greedy", "one two four") == "W AH N T UW four"
    assert phones.hypothesis_text("greedy", found["u"]) == "W AH N TH R IY"
    assert phones.reference_text("HLG", "one two four") == "one two four"


def test_scales_file_names_what_it_is_valid_for(bench: Bench) -> None:
    bench.run()
    keys = json.loads((bench.out / "scales.json").read_text())["keys"]
    assert keys == {"checkpoint": "ab" * 32, "lang": bench.lang.fingerprint, "dev": "dev"}
