"""Which stages run after an edit of the lexicon or the language model: the trained model stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmu_asr.lang.lang import Lang
from lmu_asr.lang.ngram import train_ngram, write_arpa
from lmu_asr.stages import common, load_stage
from lmu_asr.stages.common import Context, current_stamp, run_stage, why_run, why_stale
from lmu_asr.stages.stamp import Stamp
from lmu_asr.training.run import training_lang
from tests.stages.prepared import LEXICON, TEXTS, context_of, write


def finish(context: Context) -> list[str]:
    """Run stages 2 and 3 where they are stale, and stamp 4 and 5 as run; return those that ran."""
    ran = [name for name in ("lang", "graph") if run_stage(load_stage(name), context)]
    for name in ("train", "decode"):
        stage = load_stage(name)
        stamp = current_stamp(stage, context)
        if why_stale(stage, context, stamp) is not None:
            ran.append(name)
            stage.stamp_dir(context).mkdir(parents=True, exist_ok=True)
            Stamp(stamp.key, stamp.parts, {}).save(stage.stamp_path(context))
    return ran


ALL = ["lang", "graph", "train", "decode"]
WITHOUT_TRAINING = ["lang", "graph", "decode"]
AFTER_LANG = "after stage 2 (lang), if what is read of it changes"
MORE = "tow T OW\ntwo-red T UW R EH D\n"


def arpa(path: Path) -> str:
    write_arpa(train_ngram([*TEXTS, "two zoos"], 3), path)
    return str(path)


@pytest.mark.parametrize(
    ("edit", "ran"),
    [
        # pronunciations of words outside the training text
        (lambda p: {"lang__lexicon": write(p / "new", LEXICON + MORE)}, WITHOUT_TRAINING),
        (lambda p: write(p / "lexicon.txt", LEXICON + MORE) and {}, WITHOUT_TRAINING),
        # words of the language model that sound as those of the text: #1 and #2
        (lambda p: {"lm__text": write(p / "lm.txt", "two too\nroses read to\n")}, WITHOUT_TRAINING),
        (lambda p: {"lm__arpa": arpa(p / "lm.arpa")}, WITHOUT_TRAINING),
        (lambda p: {"lm__order": 1}, ["graph", "decode"]),
        (lambda p: {"lm__prune": 1e-9}, ["graph", "decode"]),
        (lambda p: {"lm__rescore_order": 3}, ["graph", "decode"]),
        (lambda p: {"graph__kinds": ["H", "HL"]}, ["graph", "decode"]),
        (lambda p: {"lm__max_words": 5}, WITHOUT_TRAINING),
        # a second pronunciation of a word that is trained on: CTC takes the first
        (lambda p: write(p / "lexicon.txt", LEXICON + "red R OW D\n") and {}, WITHOUT_TRAINING),
        # another first one, and another phone: other targets, other outputs
        (lambda p: write(p / "lexicon.txt", "red R OW D\n" + LEXICON) and {}, ALL),
        (lambda p: write(p / "lexicon.txt", LEXICON + "shoe SH UW\n") and {}, ALL),
        (lambda p: {}, []),
    ],
)  # fmt: skip
def test_stages_after_an_edit(tmp_path: Path, edit: object, ran: list[str]) -> None:
    assert finish(context_of(tmp_path)) == ALL
    assert finish(context_of(tmp_path, **edit(tmp_path))) == ran  # type: ignore[operator]


@pytest.mark.parametrize("unit", ["char", "bpe"])
def test_other_units_keep_the_model_too(tmp_path: Path, unit: str) -> None:
    sizes = {"lang__bpe_vocab_size": 14}
    assert finish(context_of(tmp_path, unit, **sizes)) == ALL
    text = write(tmp_path / "lm.txt", "two rose to or\n")
    assert finish(context_of(tmp_path, unit, **sizes, lm__text=text)) == WITHOUT_TRAINING
    larger = context_of(tmp_path, unit, **sizes, lm__text=text)
    assert "rose" in Lang.load(larger.lang_dir).pronunciations


def test_graph_ctc_takes_every_pronunciation(tmp_path: Path) -> None:
    finish(context_of(tmp_path, model__ctc__loss="graph_ctc"))
    write(tmp_path / "lexicon.txt", LEXICON + "red R OW D\n")
    assert finish(context_of(tmp_path, model__ctc__loss="graph_ctc")) == ALL


def test_ids_stay_and_training_sees_its_own_words_only(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    text = context.features_dir / "train_text"
    run_stage(load_stage("lang"), context)
    before = training_lang(context.lang_dir, text)
    write(tmp_path / "lexicon.txt", LEXICON + MORE)
    larger = context_of(tmp_path, lm__text=write(tmp_path / "lm.txt", "two too to read rose\n"))
    run_stage(load_stage("lang"), larger)
    whole, after = Lang.load(larger.lang_dir), training_lang(larger.lang_dir, text)
    assert whole.disambig_tokens != before.disambig_tokens
    assert whole.tokens == after.tokens == before.tokens
    assert after.lexicon == before.lexicon != whole.lexicon
    assert whole.encode("two red") == after.encode("two red") == before.encode("two red")
    assert whole.encode("too") == before.encode("two")


def test_dry_run_before_the_lang_directory_is_there(tmp_path: Path) -> None:
    finish(context_of(tmp_path))
    train, other = load_stage("train"), context_of(tmp_path, "char")
    assert why_run(train, other, 2) == AFTER_LANG
    with pytest.raises(common.StageError, match="needs stage 2"):
        why_run(train, other, 3)
    run_stage(load_stage("lang"), other)
    assert why_run(train, other, 2) == "changed: tokens"


def test_dry_run_says_that_the_model_may_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = context_of(tmp_path)
    train, decode = load_stage("train"), load_stage("decode")
    assert why_run(train, context, 2) == "not made yet"
    finish(context)
    text = context_of(tmp_path, lm__text=write(tmp_path / "lm.txt", "two too\n"))
    with caplog.at_level("INFO"):
        common.say_plan(train, text, 2)
    assert caplog.messages == [f"stage 4 (train): may run: {AFTER_LANG}"]
    assert why_run(decode, text, 2) == "after stage 3 (graph)"
    other = context_of(tmp_path, lm__text=str(tmp_path / "lm.txt"), train__epochs=3)
    assert why_run(train, other, 2) == "changed: config train"
    write(tmp_path / "lexicon.txt", LEXICON + MORE)  # the same lang directory
    assert why_run(train, context, 2) == AFTER_LANG
    assert finish(context) == WITHOUT_TRAINING and why_run(train, context, 2) is None


def test_facts_need_the_lang_stage(tmp_path: Path) -> None:
    with pytest.raises(common.StageError, match="needs stage 2"):
        current_stamp(load_stage("train"), context_of(tmp_path))


def test_a_new_test_set_keeps_the_model_and_other_training_data_do_not(tmp_path: Path) -> None:
    context, name = context_of(tmp_path), "feats/{}-00000.lca"
    stamp = load_stage("features").stamp_path(context)
    files = {name.format(split): split for split in ("train", "dev", "test")}
    Stamp("one", {}, {}, files).save(stamp)
    assert finish(context) == ALL
    more = context_of(tmp_path, corpus__test=["test", "new"])
    Stamp("two", {}, {}, files | {name.format("new"): "new", "new_text": "n"}).save(stamp)
    assert finish(more) == WITHOUT_TRAINING
    for number, edited in enumerate((name.format("train"), name.format("dev"), "train_text")):
        Stamp(f"other {number}", {}, {}, files | {edited: "edited"}).save(stamp)
        assert finish(more) == ALL
