"""G.722 against a plain scalar decoder written from the recommendation's diagrams."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from lmu_asr.data.audio.g722 import ILB, QM2, QM4, QM6, QMF, WH, WL, decode_g722


class Scalar:
    """One stream, one value at a time."""

    def __init__(self) -> None:
        self.bands = [
            {"det": det, "nb": 0, "s": 0, "sz": 0, "a": [0, 0], "b": [0] * 6}
            | {"d": [0] * 6, "r": [0, 0], "p": [0, 0]}
            for det in (32, 8)
        ]
        self.line = [0] * 24

    def decode(self, stream: bytes) -> list[int]:
        return [sample for code in stream for sample in self.byte(code)]

    def byte(self, code: int) -> tuple[int, int]:
        low, high = self.bands
        six = code & 63
        rlow = limit(low["s"] + (low["det"] * int(QM6[six]) >> 15), 14)
        rhigh = limit(high["s"] + (high["det"] * int(QM2[code >> 6]) >> 15), 14)
        self.update(low, int(QM4[six >> 2]), int(WL[six >> 2]), 18432, 8)
        self.update(high, int(QM2[code >> 6]), int(WH[code >> 6]), 22528, 10)
        self.line = [*self.line[2:], rlow + rhigh, rlow - rhigh]
        first = sum(self.line[2 * i + 1] * int(QMF[11 - i]) for i in range(12))
        second = sum(self.line[2 * i] * int(QMF[i]) for i in range(12))
        return limit(first >> 11, 15), limit(second >> 11, 15)

    def update(self, band, level: int, weight: int, top: int, shift: int) -> None:
        d0 = band["det"] * level >> 15
        band["nb"] = min(max((band["nb"] * 127 >> 7) + weight, 0), top)
        exponent = shift - (band["nb"] >> 11)
        mantissa = int(ILB[band["nb"] >> 6 & 31])
        band["det"] = (mantissa << -exponent if exponent < 0 else mantissa >> exponent) << 2
        r0, p0 = limit(band["s"] + d0, 15), limit(band["sz"] + d0, 15)
        (a1, a2), p = band["a"], band["p"]
        same = [(p0 < 0) == (old < 0) for old in p]
        w = limit(a1 << 2, 15)
        w = min(-w if same[0] else w, 32767) >> 7
        n2 = min(max(w + (128 if same[1] else -128) + (a2 * 32512 >> 15), -12288), 12288)
        n1 = limit((192 if same[0] else -192) + (a1 * 32640 >> 15), 15)
        bound = limit(15360 - n2, 15)
        band["a"] = [min(max(n1, -bound), bound), n2]
        gain = 128 if d0 else 0
        signs = [gain if (old < 0) == (d0 < 0) else -gain for old in band["d"]]
        band["b"] = [
            limit(g + (b * 32640 >> 15), 15) for g, b in zip(signs, band["b"], strict=True)
        ]
        band["d"] = [d0, *band["d"][:5]]
        band["r"], band["p"] = [r0, band["r"][0]], [p0, p[0]]
        poles = zip(band["a"], band["r"], strict=True)
        zeros = zip(band["b"], band["d"], strict=True)
        sp = limit(sum(a * limit(2 * r, 15) >> 15 for a, r in poles), 15)
        band["sz"] = limit(sum(b * limit(2 * d, 15) >> 15 for b, d in zeros), 15)
        band["s"] = limit(sp + band["sz"], 15)


def limit(value: int, bits: int) -> int:
    return min(max(value, -(1 << bits)), (1 << bits) - 1)


def stream(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


@pytest.mark.parametrize("seed", range(3))
def test_random_streams_of_different_length(seed):
    streams = [stream(count, seed + count) for count in (150, 1, 400, 0, 400)]
    for given, found in zip(streams, decode_g722(streams), strict=True):
        assert found.dtype == np.int16
        assert found.tolist() == Scalar().decode(given)


def test_silence_decodes_to_almost_nothing():
    (samples,) = decode_g722([bytes([0b11_111110]) * 400])
    assert np.abs(samples[100:]).max() <= 4


def test_no_streams():
    assert decode_g722([]) == []


def test_equal_to_another_decoder():
    """The digest is of what FFmpeg 9 makes of the same bytes."""
    (samples,) = decode_g722([stream(600, 0)])
    assert samples[500:504].tolist() == [45, -7174, -5746, -6650]
    digest = hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
    assert digest == "f63c43d65fae0a2c05daa9a17dacefcb54043e78053e7f1d2c615ed694f13d68"
