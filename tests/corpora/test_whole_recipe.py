"""Each recipe as it stands in egs/, from stage 0 to its table, on its corpus in miniature."""

from __future__ import annotations

import ast
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import kaldialign
import pytest

from lmu_asr.corpora import asterisk, corpus_names, fetch, get_corpus
from lmu_asr.data.features import extraction as shards
from lmu_asr.data.features import part as shard
from lmu_asr.files import read_json
from lmu_asr.stages import configure, load_stage
from lmu_asr.stages.common import NAMES, main
from tests.corpora import fixtures
from tests.corpora.server import serving
from tests.corpora.test_recipes import OWN_COPY, SERVED, serve
from tests.data.speech import tree_bytes, write_audio

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *("model.dim=16", "model.num_layers=1", "model.subsampling=2"),
    "model.subsampling_channels=4",
    *("train.epochs=1", "train.max_steps=2", "train.max_duration=10", "train.average=1"),
    *("train.warmup_steps=1", "train.tensorboard=false", "train.num_workers=0"),
    "train.autoconf=false",  # measured in tests of training; here it would take half of the time
    *("decode.bootstrap=100", "decode.lm_scales=[0.5]", "features.num_mel_bins=20"),
)
LMU = ("model.lmu.memory_order=4", "model.lmu.thetas=[4]")
SMALL_SHARDS = {"LEAST_SECONDS": 2.0, "SHARDS": 1000, "INLINE_SECONDS": 0.0}
METHODS = ("greedy", "HLG")
pytestmark = pytest.mark.slow


def run_recipe(recipe: str, work: Path, *sets: str, variant: str = "default") -> Path:
    """Run all stages of a recipe in this process; returns its experiment directory."""
    encoder = LMU if variant != "lstm" else ()
    options = [item for value in (*TINY, *encoder, *sets) for item in ("--set", value)]
    named = ["--recipe", recipe, "--variant", variant, "--exp-dir", str(work / "exp")]
    assert configure.main([*named, *options]) == 0
    path = next((work / "exp").glob(f"*/{variant}/resolved.yaml"))
    places = ["--data-dir", str(work / "data"), "--exp-dir", str(work / "exp"), "--nj", "1"]
    for name in NAMES:
        arguments = ["--config", str(path), "--recipe", recipe, *places]
        assert main(load_stage(name), arguments) == 0, name
    return path.parent


def transcripts(path: Path, side: str) -> dict[str, list[str]]:
    """References (``ref``) or hypotheses (``hyp``) of a recogs file by utterance."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, words = line.partition(f":\t{side}=")
        if words:
            found[name] = ast.literal_eval(words)
    return found


def check_row(row: dict, decoded: Path, features: Path, lang: Path) -> None:
    """All utterances were scored, with words that the method can write; kaldialign counts the same."""
    path = decoded / f"recogs-{row['split']}-{row['method']}.txt"
    refs, hyps = transcripts(path, "ref"), transcripts(path, "hyp")
    lines = (features / f"{row['split']}_text").read_text().splitlines()
    texts = {line.split()[0]: line.split()[1:] for line in lines}
    assert texts.keys() == refs.keys() == hyps.keys() == {u[0] for u in row["utterances"]}
    assert len(row["utterances"]) == len(texts) > 0
    heard = {word for hyp in hyps.values() for word in hyp}
    if row["unit"] == "word":
        assert refs == texts
    names = "tokens" if row["method"] == "greedy" else "words"
    known = {line.split()[0] for line in (lang / f"{names}.txt").read_text().splitlines()}
    if names == "tokens" and row["unit"] == "word":  # spelled by tokens
        known, heard = set("".join(known)), set("".join(heard))
    assert heard <= known - {"<eps>", "<blk>"}
    errors = sum(kaldialign.edit_distance(refs[name], hyps[name])["total"] for name in refs)
    length = sum(map(len, refs.values()))
    assert row["wer"]["length"] == length
    assert row["wer"]["rate"] == pytest.approx(100 * errors / length, rel=1e-12)


def check_table(exp_dir: Path, corpus: str, splits: list[str]) -> None:
    """Every split and method was scored as it should; the table has the rates and the corpus's licence."""
    rows = json.loads((exp_dir / "decode" / "results.json").read_text())["results"]
    wanted = sorted((split, method) for split in splits for method in METHODS)
    assert sorted((r["split"], r["method"]) for r in rows if r["method"] in METHODS) == wanted
    data = exp_dir.parents[2] / "data" / corpus
    (features,), (lang,) = data.glob("fbank20*"), data.glob("lang-*")
    table = (exp_dir.parent / "RESULTS.md").read_text()
    for row in rows:
        check_row(row, exp_dir / "decode", features, lang)
        kind = "PER " * (row["unit"] == "phone")
        cells = f"| {row['method']} | {row['split']} | {kind}{row['wer']['rate']:.2f} "
        assert cells in table, table
    assert f"Corpus {get_corpus(corpus).license_note}." in table


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Recipes run from the top of the repository."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.0)


@pytest.mark.parametrize("name", SERVED)
def test_served(name, tmp_path, monkeypatch):
    with serving() as server:
        config = serve(name, server, monkeypatch)
        first = next(iter(server.files))
        server.faults = {first: [429, ("drop", 2000), ("lie", b"another"), 503]}
        exp_dir = run_recipe(name, tmp_path, f"corpus.mirror={server.base}")
        assert server.count[first] == 5
    check_table(exp_dir, name, [config.dev, *config.test])


@pytest.mark.parametrize("name", OWN_COPY)
def test_own_copy(name, tmp_path):
    config, make = OWN_COPY[name]
    for path, content in make().items():
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / path).write_bytes(content)
    exp_dir = run_recipe(
        name,
        tmp_path,
        f"corpus.source={tmp_path / 'source'}",
        f"corpus.train={config.train}",
    )
    check_table(exp_dir, name, [config.dev, *config.test])


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_asterisk(tmp_path):
    files = fixtures.asterisk({f"prompt-{i:02d}": f"Press {i % 10}" for i in range(24)}, 6400)
    for package in asterisk.PACKAGES:
        fixtures.debian_package(package, files[package], tmp_path / "packages")
    exp_dir = run_recipe("asterisk", tmp_path, f"corpus.download_dir={tmp_path / 'packages'}")
    check_table(exp_dir, "asterisk", ["dev", "test"])


def test_own(tmp_path):
    rows = []
    for i in range(30):
        audio = write_audio(tmp_path / "wav" / f"u{i}.wav", 0.5, i)
        rows.append(json.dumps({"key": f"u{i}", "source": str(audio), "target": "Well, yes"}))
    (tmp_path / "list.jsonl").write_text("\n".join(rows) + "\n")
    exp_dir = run_recipe("own", tmp_path, f"corpus.source={tmp_path / 'list.jsonl'}")
    check_table(exp_dir, "own", ["dev", "test"])


def test_kaldi_directory_of_commands(tmp_path, monkeypatch, caplog):
    """Each program runs once, where the user calls from; stage 1 watches what the programs read."""
    source = fixtures.kaldi_of_commands(tmp_path / "s5")
    monkeypatch.setenv("LMU_ASR_CALLER_DIR", str(tmp_path / "s5"))
    monkeypatch.setenv("PATH", f"{tmp_path / 's5' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    exp_dir = run_recipe("own", tmp_path, f"corpus.source={source}", "corpus.pipes=true")
    check_table(exp_dir, "own", ["dev", "test"])
    ran = (tmp_path / "s5" / "ran.log").read_text().split()
    assert Counter(ran) == {"flac": 16, "sph2pipe": 8, "sox": 16}
    reports = [read_json(p) for p in (tmp_path / "data/own/fbank20").glob("*_report.json")]
    assert sum(report["kept"] for report in reports) == 32 and len(reports) == 3

    def prepared_again() -> bool:
        caplog.clear()
        places = ["--data-dir", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp")]
        with caplog.at_level(logging.INFO):
            assert (
                main(load_stage("features"), ["--config", str(exp_dir / "resolved.yaml"), *places])
                == 0
            )
        return "(features): up to date" not in caplog.text

    shutil.rmtree(tmp_path / "data" / "own" / "pipes")  # the features do not need it
    assert not prepared_again()
    read = tmp_path / "s5" / "audio" / "u00.flac"
    os.utime(read, (1, 1))
    assert not prepared_again()  # content decides, not times
    read.write_bytes(b"what the program reads now")
    assert prepared_again() and not prepared_again()


def prepare(arguments: list[str], data: Path, nj: int) -> int:
    """Run stage 1 in this process."""
    return main(load_stage("features"), [*arguments, "--data-dir", str(data), "--nj", str(nj)])


def prepare_by_small_shards(arguments: list[str], data: Path, feats: Path, most: int) -> int:
    """Run stage 1 with as many shards as a large corpus has; waits for its end at ``most`` of them."""
    for name, value in SMALL_SHARDS.items():
        setattr(shards, name, value)
    make = shards.make_shard

    def held(task: shard.Task) -> shard.Shard:
        while len(list(feats.glob("*.jsonl.gz"))) >= most:
            time.sleep(0.01)
        return make(task)

    shards.make_shard = held
    return prepare(arguments, data, 1)


def prepared(data: Path) -> dict[str, bytes]:
    """What stage 1 left, its stamp aside: that has times of files in it."""
    found = tree_bytes(data / "an4" / "fbank20")
    return {name: content for name, content in found.items() if not name.endswith("stamp.json")}


def test_processes_and_kills_do_not_change_what_is_prepared(tmp_path, monkeypatch):
    with serving() as server:
        serve("an4", server, monkeypatch)
        sets = [o for v in (*TINY, *LMU, f"corpus.mirror={server.base}") for o in ("--set", v)]
        assert configure.main(["--recipe", "an4", "--exp-dir", str(tmp_path / "exp"), *sets]) == 0
        path = next((tmp_path / "exp").glob("*/default/resolved.yaml"))
        places = ["--data-dir", str(tmp_path / "one"), "--exp-dir", str(tmp_path / "exp")]
        assert main(load_stage("download"), ["--config", str(path), *places]) == 0
    for name in ("two", "killed"):
        shutil.copytree(tmp_path / "one", tmp_path / name)
    for name, value in SMALL_SHARDS.items():
        monkeypatch.setattr(shards, name, value)
    arguments = ["--config", str(path), "--exp-dir", str(tmp_path / "exp")]
    assert prepare(arguments, tmp_path / "one", 1) == 0
    assert prepare(arguments, tmp_path / "two", 2) == 0
    feats = tmp_path / "killed" / "an4" / "fbank20" / "feats"
    for _ in range(3):
        wanted = len(list(feats.glob("*.jsonl.gz"))) + random.randrange(1, 4)
        child = multiprocessing.get_context("spawn").Process(  # torch's threads outlive no fork
            target=prepare_by_small_shards,
            args=(arguments, tmp_path / "killed", feats, wanted + 1),
        )
        child.start()
        while child.is_alive() and len(list(feats.glob("*.jsonl.gz"))) < wanted:
            time.sleep(random.uniform(0.0, 0.01))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    assert not (feats.parent / "test_cuts.jsonl.gz").exists()
    (feats.parent / ".train_cuts.jsonl.gz.abcdefgh.tmp.jsonl.gz").write_bytes(b"killed in writing")
    assert prepare(arguments, tmp_path / "killed", 1) == 0
    whole = prepared(tmp_path / "one")
    assert len([name for name in whole if name.endswith(".lca")]) > 10
    assert {"train_cuts.jsonl.gz", "dev_cuts.jsonl.gz", "test_cuts.jsonl.gz"} <= set(whole)
    assert prepared(tmp_path / "two") == whole
    assert prepared(tmp_path / "killed") == whole


def test_every_corpus_is_here_or_is_the_default():
    assert {*SERVED, *OWN_COPY, "asterisk", "own", "mini"} == {*corpus_names()}


@pytest.mark.parametrize("variant", ["lmu_ctc_bpe", "lmu_ctc_phone", "lmu_ctc_stream", "lstm"])
def test_variants(variant, tmp_path, monkeypatch):
    with serving() as server:
        serve("an4", server, monkeypatch)
        exp_dir = run_recipe(
            "an4", tmp_path, f"corpus.mirror={server.base}", "train.lr=1e-3", variant=variant
        )
    check_table(exp_dir, "an4", ["dev", "test"])


def test_the_page_for_newcomers(tmp_path, monkeypatch):
    """The example of docs/new-corpus.md works as it is printed, and is short."""
    page = (ROOT / "docs" / "new-corpus.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.S).group(1)
    assert len(code.splitlines()) < 100
    module: dict = {"__name__": "example"}
    exec(compile(code, "docs/new-corpus.md", "exec"), module)
    lines = []
    for i in range(12):
        write_audio(tmp_path / "x" / "wavs" / f"u{i}.wav", 0.3, i)
        lines.append(f"u{i}|speaker{i}|Good morning.\n")
    (tmp_path / "x" / "list.txt").write_text("".join(lines))
    corpus = module["CORPUS"]
    splits = corpus.manifests(configure.load_config().corpus, tmp_path)
    assert sum(len(part.supervisions) for part in splits.values()) == 12
    assert set(splits) == {"train", "dev", "test"}
    assert corpus.normalize("Good morning.") == "good morning"
