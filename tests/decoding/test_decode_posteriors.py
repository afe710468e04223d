"""Log-probabilities of a split: once, exact, on disk when large, refused when broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmu_asr.data.batch import Batch
from lmu_asr.decoding.posteriors import compute_posteriors, stream_utterance
from lmu_asr.errors import DataError, ModelError
from tests.decoding.fakes import FakeModel


def random_batches(lens: list[int], size: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    out = []
    for start in range(0, len(lens), size):
        part = lens[start : start + size]
        features = torch.randn(len(part), max(part), 5, generator=generator)
        ids = [f"u{start + n}" for n in range(len(part))]
        out.append(
            Batch(
                features, torch.tensor(part), [f"t{i}" for i in ids], ids, [n / 100 for n in part]
            )
        )
    return out


def test_values_lengths_texts_and_duration() -> None:
    loader = random_batches([10, 7, 4, 9])
    posteriors, texts = compute_posteriors(FakeModel(), loader)
    assert texts == {f"u{n}": f"tu{n}" for n in range(4)}
    assert posteriors.ids == ["u0", "u1", "u2", "u3"]
    assert posteriors.audio_seconds == pytest.approx(0.30)
    assert posteriors.encoder_seconds > 0
    batch = next(iter(posteriors))
    expected = FakeModel()(loader[0].features, loader[0].feature_lens)
    assert torch.equal(batch.log_probs, expected[0])
    assert batch.lens.tolist() == [5, 3, 2]


def test_disk_holds_the_same_values_and_is_cleaned(tmp_path: Path) -> None:
    loader = random_batches([10, 8, 6, 12, 9, 9, 3])
    held, _ = compute_posteriors(FakeModel(), loader)
    spilled, _ = compute_posteriors(FakeModel(), loader, spill_dir=tmp_path, memory_bytes=400)
    with spilled:
        assert [p.name for p in tmp_path.glob(".posteriors-*/*")] == ["000001.npy"]
        for _ in range(2):  # a sweep reads them again and again
            for a, b in zip(held, spilled, strict=True):
                assert a.ids == b.ids
                assert torch.equal(a.log_probs, b.log_probs) and torch.equal(a.lens, b.lens)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_stream_equals_offline(chunk: int) -> None:
    loader = random_batches([10, 8, 6])
    whole, _ = compute_posteriors(FakeModel(), loader)
    model = FakeModel()
    streamed, _ = compute_posteriors(model, loader, chunk_frames=chunk)
    assert model.calls == 0
    for a, b in zip(whole, streamed, strict=True):
        assert torch.equal(a.lens, b.lens)
        for x, y, n in zip(a.log_probs, b.log_probs, a.lens.tolist(), strict=True):
            torch.testing.assert_close(x[:n], y[:n])


def test_stream_of_one_utterance_ignores_its_padding() -> None:
    features = torch.randn(7, 5)
    out = stream_utterance(FakeModel(), features, 2)
    torch.testing.assert_close(out, FakeModel()(features[None], torch.tensor([7]))[0][0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_posteriors_name_utterance_and_frame(value: float) -> None:
    loader = random_batches([10, 8, 6])
    loader[0].features[1, 4, 2] = value
    with pytest.raises(ModelError, match=r"'u1': .* from frame 2 of 4"):
        compute_posteriors(FakeModel(), loader)


def test_padding_may_hold_anything() -> None:
    loader = random_batches([10, 8, 6])
    loader[0].features[2, 6:] = float("nan")
    posteriors, _ = compute_posteriors(FakeModel(), loader)
    assert len(posteriors.ids) == 3


def test_repeated_id_and_empty_split() -> None:
    first = random_batches([4, 4])[0]
    with pytest.raises(DataError, match="'u0' occurs more than once"):
        compute_posteriors(FakeModel(), [first, first])
    with pytest.raises(DataError, match="'u1' occurs more than once"):
        compute_posteriors(FakeModel(), [replace(first, ids=["u1", "u1"])])
    with pytest.raises(DataError, match="dev: no utterances"):
        compute_posteriors(FakeModel(), [], name="dev")
