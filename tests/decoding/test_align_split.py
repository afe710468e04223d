"""Alignment of a split: files, and utterances that cannot be aligned."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmu_asr.config import Config
from lmu_asr.data.batch import Batch
from lmu_asr.decoding import align_split as module
from lmu_asr.decoding.align_split import align_split
from lmu_asr.stages import align as stage
from tests.decoding.fakes import FakeModel, batches, make_lang

SAID = {
    "u1": ("one two", "one two"),
    "u2": ("two", "one"),
    "u/3": ("never heard", "one"),
    "u4": ("two two two two", "one"),
}


@pytest.fixture
def lang_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lang = make_lang(tmp_path / "lang", ["one two"])
    model = FakeModel()
    model.encoder = SimpleNamespace(subsampling_factor=2)

    def loader(path: Path, max_duration: float, num_workers: int = 0) -> Iterator[Batch]:
        assert path.name == "dev_cuts.jsonl.gz"
        return batches(SAID, lang)

    monkeypatch.setattr(module, "build_eval_loader", loader)
    monkeypatch.setattr(
        module, "load_trained", lambda config, exp, lang: SimpleNamespace(model=model)
    )
    return tmp_path / "lang"


def test_words_stand_where_they_were_said(lang_dir: Path, tmp_path: Path) -> None:
    found = align_split(Config(), tmp_path, tmp_path, lang_dir, "dev")
    assert found.frame_seconds == pytest.approx(0.02)
    assert set(found.alignments) == {"u1", "u2"}
    assert "'never' has no pronunciation" in found.refused["u/3"]
    assert "frames cannot carry 'two two two two'" in found.refused["u4"]
    # a token and a blank, each of one frame after subsampling: boundary o n e boundary t w o
    words = [(s.label, s.begin, s.end) for s in found.alignments["u1"].words]
    assert words == [("one", 0, 7), ("two", 8, 15)]
    assert min(s.confidence for s in found.alignments["u1"].words) > 0.9
    assert found.alignments["u2"].words[0].confidence < 0.7


def test_files(lang_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("variant: v\n")
    arguments = ["--config", str(config), "--out", str(tmp_path / "out")]
    # the stage looks for the lang directory of the corpus: lead it to the test's
    lang = tmp_path / "data" / "mini" / "lang-char"
    lang.parent.mkdir(parents=True)
    lang.symlink_to(lang_dir)
    assert stage.main([*arguments, "--data-dir", str(tmp_path / "data")]) == 0
    out = tmp_path / "out"
    assert capsys.readouterr().out.strip() == str(out / "align-dev-words.ctm")
    lines = (out / "align-dev-words.ctm").read_text().splitlines()
    assert lines[0].startswith("u1 1 0.000 0.140 one ")
    assert len(lines) == 3
    tokens = (out / "align-dev-tokens.ctm").read_text().splitlines()
    assert sum(line.startswith("u1 ") for line in tokens) == 8
    assert sorted(p.name for p in (out / "textgrid-dev").iterdir()) == [
        "u1.TextGrid",
        "u2.TextGrid",
    ]
    refused = (out / "align-dev-refused.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in refused] == ["u/3", "u4"]


def test_errors_end_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage.main(["--config", str(tmp_path / "none.yaml")]) == 1
    assert "align: error:" in capsys.readouterr().err
