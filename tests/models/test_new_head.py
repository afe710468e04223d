"""A head as a newcomer would add one: a file of its own, one YAML, nothing else edited."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmu_asr.config_files import load_config
from lmu_asr.decoding.decode import run_decoding
from lmu_asr.errors import ConfigError
from lmu_asr.fsa.graphs import compile_graph
from lmu_asr.lang.lang import Lang
from lmu_asr.models import heads
from lmu_asr.training.loop.source import LoaderSource
from lmu_asr.training.run import run_training
from tests.training.outcome import differences, outcome
from tests.training.tiny_data import OPTIONS, make_data

HEAD = '''
"""Frame-wise cross-entropy: the tokens of a transcript lie evenly over its frames."""

from dataclasses import dataclass

import torch
from torch import nn

from lmu_asr.models.head import Head
from lmu_asr.options import opt


@dataclass(frozen=True)
class Options:
    """The section model.frames."""

    smoothing: float = opt(0.0, "share of the loss that pulls to uniform", min=0.0, max=0.9)


class FramesHead(Head):
    methods = ("greedy", "prefix_beam", "H", "HL", "HLG")
    scores_frames = True

    def __init__(self, dim, vocab_size, smoothing):
        super().__init__()
        self.linear = nn.Linear(dim, vocab_size)
        self.smoothing = smoothing

    def refusal(self, target, frames):
        if frames < 2 * len(target):  # each token, and a blank after it
            return f"{frames} frames, and {len(target)} tokens need two each"
        return super().refusal(target, frames)

    def forward(self, encoded):
        return torch.log_softmax(self.linear(encoded).float(), dim=-1)

    def loss(self, outputs, lens, targets):
        labels = torch.full(outputs.shape[:2], -100)
        for row, size, tokens in zip(labels, lens.tolist(), targets.tokens):
            spelled = torch.tensor([x for token in tokens for x in (token, 0)] or [0])
            row[:size] = spelled[torch.arange(size) * len(spelled) // size]
        each = nn.functional.cross_entropy(
            outputs.transpose(1, 2), labels.to(outputs.device), reduction="none",
            label_smoothing=self.smoothing,
        )
        return each.sum(dim=1)

    def extend(self, outputs, lens, state):
        found, state = [], list(state or [0] * len(outputs))
        for n, (row, size) in enumerate(zip(outputs.argmax(-1).tolist(), lens.tolist())):
            path = [state[n], *row[:size]]
            found.append([new for old, new in zip(path, path[1:]) if new not in (0, old)])
            state[n] = path[-1]
        return found, state


def build(config, options, vocab_size):
    return FramesHead(config.dim, vocab_size, options.smoothing)
'''


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file lies where heads are looked for, as long as the test runs."""
    monkeypatch.setattr(heads, "__path__", [*heads.__path__, str(tmp_path / "heads")])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads/frames.py").write_text(HEAD)
    yield
    sys.modules.pop(f"{heads.__name__}.frames", None)


def test_a_head_in_one_file_trains_resumes_exactly_and_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HEAD.count("\n") < 150
    variant = tmp_path / "variant.yaml"
    variant.write_text("model:\n  head: frames\n  frames: {smoothing: 0.1}\n")
    config = load_config(variant, [*OPTIONS, "train.checkpoint_every=1", "decode.bootstrap=100"])
    data_dir, lang_dir = make_data(tmp_path)
    (data_dir / "test_cuts.jsonl.gz").write_bytes((data_dir / "dev_cuts.jsonl.gz").read_bytes())

    run_training(config, tmp_path / "calm", data_dir, lang_dir)
    with monkeypatch.context() as patch:
        original = LoaderSource._prepare

        def prepare_and_stop(self: LoaderSource, *rest: Any) -> Any:
            signal.raise_signal(signal.SIGTERM)
            return original(self, *rest)

        patch.setattr(LoaderSource, "_prepare", prepare_and_stop)
        for _ in range(3):
            with pytest.raises(SystemExit):
                run_training(config, tmp_path / "stopped", data_dir, lang_dir)
    run_training(config, tmp_path / "stopped", data_dir, lang_dir)
    assert differences(outcome(tmp_path / "calm"), outcome(tmp_path / "stopped")) == []

    lang = Lang.load(lang_dir)
    (tmp_path / "graph").mkdir()
    for kind in ("H", "HL"):
        out = tmp_path / f"graph/{kind}.fst"
        compile_graph(kind, lang, tmp_path / "none.arpa", out, config.graph)
    config = replace(config, decode=replace(config.decode, methods=["greedy", "H", "HL"]))
    results = run_decoding(config, tmp_path / "calm", data_dir, lang_dir, tmp_path / "graph")
    assert [(r.split, r.method) for r in results] == [
        (split, method) for split in ("dev", "test") for method in ("greedy", "H", "HL")
    ]
    assert {r.wer.rate for r in results if r.method != "HL"} == {results[0].wer.rate}
    config = replace(config, decode=replace(config.decode, methods=["nbest"]))
    with pytest.raises(ConfigError, match="'nbest' does not serve this model's head, FramesHead"):
        run_decoding(config, tmp_path / "calm", data_dir, lang_dir, tmp_path / "graph")
