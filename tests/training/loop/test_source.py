"""Targets, the CTC length filter and augmentation that depends on the utterance alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmu_asr.config import AugmentConfig
from lmu_asr.data.batch import Batch
from lmu_asr.errors import DataError
from lmu_asr.lang.lang import Lang
from lmu_asr.models.ctc import CtcHead
from lmu_asr.training.loop.source import HeadFilter, LoaderSource, augment
from lmu_asr.training.parallel.processes import World
from tests.training.tiny_data import make_data, tiny_config
from tests.training.toy import ToyLang


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_data(tmp_path_factory.mktemp("tiny"))


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, rank, size, torch.device("cpu"))


def quarter(*options: str) -> Any:
    """What a source asks of a model that gives a frame for four."""
    head = CtcHead(4, 5)
    head.prepare(tiny_config(*options), ToyLang(), ())
    return SimpleNamespace(head=head, output_lens=lambda lens: lens // 4)


def source(
    prepared: tuple[Path, Path], rank: int = 0, size: int = 1, *options: str
) -> LoaderSource:
    lang = Lang.load(prepared[1])
    return LoaderSource(
        tiny_config(*options), prepared[0], lang, quarter(*options), world(rank, size)
    )


@pytest.mark.parametrize(
    ("text", "frames", "reason"),
    [
        ("ab", 12, None),  # ▁ a b
        ("ab", 11, "2 frames after subsampling, but its text needs 3"),
        ("aab", 20, None),  # ▁ a a b and a blank between the two a
        ("aab", 19, "4 frames after subsampling, but its text needs 5"),
        ("", 99, "empty text"),
        ("xy", 99, "symbol 'x'"),
    ],
)
def test_filter_is_the_exact_ctc_rule(
    prepared: tuple[Path, Path], text: str, frames: int, reason: str | None
) -> None:
    keep = HeadFilter(quarter(), Lang.load(prepared[1]))
    got = keep(
        SimpleNamespace(id="u", num_frames=frames, supervisions=[SimpleNamespace(text=text)])
    )
    assert got is None if reason is None else reason in (got or "")
    assert ("u" in keep.dropped) is (reason is not None)


def test_batches_have_targets_and_leave_out_what_is_too_short(prepared: tuple[Path, Path]) -> None:
    data = source(prepared)
    batches = list(data.train_batches(0, 0))
    assert len(batches) == data.count_batches(0)
    names = sorted(name for batch in batches for name in batch.ids)
    assert names == sorted(f"train-{index}" for index in range(16) if index != 3)
    assert list(data.filter.dropped) == ["train-3"]
    for batch in batches:
        assert all(target and min(target) > 0 for target in batch.targets)


def test_ranks_share_the_batches_of_one_process(prepared: tuple[Path, Path]) -> None:
    whole = list(source(prepared).train_batches(1, 0))
    shares = [list(source(prepared, rank, 2).train_batches(1, 0)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert (first.ids, second.ids) == (batch.ids[::2], batch.ids[1::2])
        for part, index in ((first, 0), (second, 1)):
            for row, length in enumerate(part.feature_lens.tolist()):
                mine, theirs = part.views[0][row, :length], batch.views[0][index + 2 * row, :length]
                assert torch.equal(mine, theirs)


def test_resuming_gives_the_rest_of_the_epoch(prepared: tuple[Path, Path]) -> None:
    whole = list(source(prepared).train_batches(2, 0))
    rest = list(source(prepared).train_batches(2, 2))
    assert [b.ids for b in rest] == [b.ids for b in whole[2:]]
    assert all(torch.equal(a.views[0], b.views[0]) for a, b in zip(rest, whole[2:], strict=True))


def test_views_and_epochs_differ(prepared: tuple[Path, Path]) -> None:
    data = source(prepared, 0, 1, "model.ctc.cr_ctc=0.2")
    batch = next(iter(data.train_batches(0, 0)))
    first, second = batch.views
    assert not torch.equal(first, second)
    later = {i: b for b in data.train_batches(1, 0) for i in b.ids}
    again = later[batch.ids[0]]
    row = again.views[0][again.ids.index(batch.ids[0])]
    length = min(len(row), first.shape[1])
    assert not torch.equal(row[:length], first[0, :length])


@pytest.mark.parametrize("neighbours", [0, 3])
@pytest.mark.parametrize("padding", [0, 40])
def test_augmentation_ignores_neighbours_and_padding(neighbours: int, padding: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(1 + neighbours, 60 + padding, 8)
    lens = torch.tensor([60] * (1 + neighbours))
    names = ["this", "b", "c", "d"][: 1 + neighbours]
    config = AugmentConfig(time_mask_frames=9, freq_mask_bins=3)
    batch = Batch(features, lens, [""] * len(names), names, [0.6] * len(names))
    alone = Batch(features[:1, :60].clone(), lens[:1], [""], ["this"], [0.6])
    got, want = augment(batch, config, (1, 0)), augment(alone, config, (1, 0))
    assert torch.equal(got[0, :60], want[0])
    assert torch.equal(got[:, 60:], features[:, 60:])
    assert not torch.equal(want, alone.features)


def test_missing_manifest_is_named(prepared: tuple[Path, Path]) -> None:
    lang = Lang.load(prepared[1])
    config = tiny_config("corpus.dev=nothing")
    with pytest.raises(DataError, match=r"nothing_cuts.jsonl.gz: no such manifest"):
        LoaderSource(config, prepared[0], lang, quarter(), world())


def test_fingerprint_follows_the_manifest(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    data_dir, _ = make_data(tmp_path)
    other = (data_dir, prepared[1])
    assert source(other).manifest_fingerprint() == source(prepared).manifest_fingerprint()
    path = data_dir / "dev_cuts.jsonl.gz"
    path.write_bytes(path.read_bytes() + b"\0")
    assert source(other).manifest_fingerprint() != source(prepared).manifest_fingerprint()
