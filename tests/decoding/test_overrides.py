"""A row of results shows what `--set` changed, whether training or decoding was changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lmu_asr.config import Config
from lmu_asr.config_files import save_config
from lmu_asr.decoding.overrides import marked_overrides
from lmu_asr.scoring.compare import compare, comparison_text
from lmu_asr.scoring.plots import plot_results
from lmu_asr.scoring.record import load_results, save_results
from lmu_asr.scoring.table import results_markdown, table_markdown
from tests.scoring.samples import make_result


def changed(*overrides: str) -> Config:
    return Config(overrides=list(overrides))


def test_sizes_are_those_of_the_training_scales_those_of_the_decode(tmp_path: Path) -> None:
    now = changed("model.dim=9", "decode.beam=3")
    assert marked_overrides(now, tmp_path) == ("model.dim=9", "decode.beam=3")
    save_config(
        changed("model.dim=64", "train.epochs=1", "decode.beam=5"), tmp_path / "config.yaml"
    )
    assert marked_overrides(Config(), tmp_path) == ("model.dim=64", "train.epochs=1")
    assert marked_overrides(now, tmp_path) == ("model.dim=64", "train.epochs=1", "decode.beam=3")
    save_config(Config(), tmp_path / "config.yaml")
    assert marked_overrides(Config(), tmp_path) == ()


def test_what_changes_no_result_is_no_mark(tmp_path: Path) -> None:
    silent = ("variant=x", "corpus.source=/a/b", "corpus.id=c", "train.num_workers=0")
    config = changed(*silent, "lm.text=/home/me/lm.gz", "decode.hot_words=['a=b']")
    assert marked_overrides(config, tmp_path) == ("decode.hot_words=['a=b']", "lm.text=lm.gz")


def test_tables_and_comparisons_show_the_marks(tmp_path: Path) -> None:
    plain = make_result()
    marked = replace(plain, overrides=("model.dim=64", "train.epochs=1"))
    name = "default (model.dim=64, train.epochs=1)"
    assert f"| {name} | HLG |" in table_markdown([marked])
    assert name in comparison_text(compare(marked, plain, tmp_path, tmp_path))
    assert "| default | HLG |" in table_markdown([plain])
    assert "--set" not in results_markdown([plain], ["c"])
    assert "changed by `--set`" in results_markdown([marked], ["c"])
    many = replace(plain, overrides=tuple(f"model.x{n}=1" for n in range(9)))
    assert many.name == "default (model.x0=1, model.x1=1, model.x2=1, model.x3=1, ...)"
    assert plot_results(tmp_path / "r.png", [plain, marked])


def test_records_keep_the_marks_and_old_ones_have_none(tmp_path: Path) -> None:
    marked = replace(make_result(), overrides=("model.dim=64",))
    save_results(tmp_path / "results.json", [marked])
    assert load_results(tmp_path / "results.json") == [marked]
    text = (tmp_path / "results.json").read_text()
    old = text.replace('"overrides": [\n        "model.dim=64"\n      ],\n', "")
    assert old != text
    (tmp_path / "results.json").write_text(old)
    assert load_results(tmp_path / "results.json") == [make_result()]
