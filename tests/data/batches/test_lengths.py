"""Lengths of what there is to train on, from a manifest or from its index."""

from __future__ import annotations

import numpy as np

from lmu_asr.data.batches import lengths as lengths_module
from lmu_asr.data.batches.index import open_index
from lmu_asr.data.batches.lengths import lengths_of, lengths_of_index
from lmu_asr.data.batches.sampler import read_utterances
from tests.data.batches.test_index import manifest

__all__ = ["manifest"]


def digits(text: str) -> int:
    return len(text.split()[1])


def test_all_utterances_of_a_manifest(manifest):
    utterances = read_utterances(manifest)
    found = lengths_of(utterances, digits)
    assert found.frames.tolist() == [u.num_frames for u in utterances]
    assert found.counted.tolist() == list(range(500))
    assert found.tokens.tolist() == [len(str(number)) for number in range(500)]


def test_a_telling_part_of_an_index(manifest, monkeypatch):
    monkeypatch.setattr(lengths_module, "DRAWN", 2)
    monkeypatch.setattr(lengths_module, "LONGEST_TEXTS", 1)
    utterances, index = read_utterances(manifest), open_index(manifest)
    assert index is not None
    found = lengths_of_index(index, None, digits)
    assert found.frames.tolist() == [u.num_frames for u in utterances]
    assert 2 * 32 <= len(found.counted) <= 3 * 32
    for number, tokens in zip(found.counted, found.tokens, strict=True):
        assert tokens == digits(utterances[number].text)
    groups = np.array_split(np.argsort(found.frames, kind="stable"), 32)
    for group in groups:  # the longest text of each length is among them
        longest = max(digits(utterances[number].text) for number in group)
        own = found.tokens[np.isin(found.counted, group)]
        assert own.max() == longest


def test_what_is_left_out_is_not_counted(manifest):
    index = open_index(manifest)
    assert index is not None
    found = lengths_of_index(index, lambda u: "odd" if int(u.id[1:]) % 2 else None, digits)
    assert found.counted.tolist() and not np.any(found.counted % 2)
    assert len(found.frames) == 500
