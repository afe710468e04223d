"""ITU-T G.722 at 64 kbit/s decoded to 16 kHz samples, many streams at once.

The decoder is recursive in time, so that its steps are taken one after the other, but each step
for all streams and both sub-bands together. Names follow the recommendation's block diagrams.
Shapes: N streams, B = 2 sub-bands (low, high), T bytes (one byte is two samples).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def _table(*values: int) -> Ints:
    return np.array(values, dtype=np.int64)


QM2 = _table(-7408, -1616, 7408, 1616)
QM4_HALF = (20456, 12896, 8968, 6288, 4240, 2584, 1200)
QM4 = _table(0, *(-v for v in QM4_HALF), *QM4_HALF, 0)
QM6_HALF = (
    *(24808, 21904, 19008, 16704, 14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192, 6576),
    *(6000, 5456, 4944, 4464, 4008, 3576, 3168, 2776, 2400, 2032, 1688, 1360, 1040, 728),
)
QM6 = _table(*[-136] * 4, *(-v for v in QM6_HALF), *QM6_HALF, 432, 136, -432, -136)
WL = _table(-60, -30, 58, 172, 334, 538, 1198, 3042)[
    [0, 7, 6, 5, 4, 3, 2, 1, 7, 6, 5, 4, 3, 2, 1, 0]
]
WH = _table(798, -214, 798, -214)
ILB = np.floor(2048.0 * 2.0 ** (np.arange(32) / 32.0) + 0.5).astype(np.int64)
QMF = _table(3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11)
NB_LIMIT = _table(18432, 22528)[:, None]
SHIFT = _table(8, 10)[:, None]


def decode_g722(streams: Sequence[bytes]) -> list[NDArray[np.int16]]:
    """Decode whole streams.

    Args:
        streams: G.722 bytes of each, 8,000 a second.

    Returns:
        Samples (2 * len(stream),) of each at 16 kHz.
    """
    # longest first, so that the streams that still go on are a slice at every step
    order = sorted(range(len(streams)), key=lambda i: -len(streams[i]))
    lengths = np.array([len(streams[i]) for i in order], dtype=np.int64)
    codes = np.zeros((len(order), lengths.max(initial=0)), dtype=np.int64)  # (N, T)
    for row, i in enumerate(order):
        codes[row, : lengths[row]] = np.frombuffer(streams[i], dtype=np.uint8)
    bands = _SubBands(len(order))
    rebuilt = np.zeros((2, *codes.shape), dtype=np.int64)  # (B, N, T)
    for step in range(codes.shape[1]):
        active = int(np.searchsorted(-lengths, -step))
        rebuilt[:, :active, step] = bands.step(codes[:active, step])
    samples = _synthesis(*rebuilt)
    found = {i: samples[row, : 2 * lengths[row]] for row, i in enumerate(order)}
    return [found[i] for i in range(len(streams))]


class _SubBands:
    """The adaptive predictors and quantisers of both sub-bands, (B, N, ...) each."""

    def __init__(self, count: int) -> None:
        self.det = np.tile(_table(32, 8)[:, None], (1, count))
        self.nb = np.zeros((2, count), dtype=np.int64)
        self.s, self.sz = np.zeros((2, 2, count), dtype=np.int64)
        self.a = np.zeros((2, count, 2), dtype=np.int64)
        self.b = np.zeros((2, count, 6), dtype=np.int64)
        self.d = np.zeros((2, count, 6), dtype=np.int64)
        self.r = np.zeros((2, count, 2), dtype=np.int64)
        self.p = np.zeros((2, count, 2), dtype=np.int64)

    def step(self, codes: Ints) -> Ints:
        """Decode one byte (n,) of the first n streams to low and high band values (B, n)."""
        n = len(codes)
        six, four, high = codes & 63, (codes & 63) >> 2, codes >> 6
        det = self.det[:, :n]
        fine = np.stack([QM6[six], QM2[high]])  # what is heard
        coarse = np.stack([QM4[four], QM2[high]])  # what the predictor sees
        rebuilt = np.clip(self.s[:, :n] + (det * fine >> 15), -16384, 16383)
        difference = det * coarse >> 15
        nb = (self.nb[:, :n] * 127 >> 7) + np.stack([WL[four], WH[high]])
        self.nb[:, :n] = nb = np.clip(nb, 0, NB_LIMIT)
        self.det[:, :n] = _shift(ILB[nb >> 6 & 31], SHIFT - (nb >> 11)) << 2
        self._adapt(difference, n)
        return rebuilt

    def _adapt(self, difference: Ints, n: int) -> None:
        """Update poles, zeros and delay lines with the quantised difference (B, n) (block 4)."""
        a, b, d = self.a[:, :n], self.b[:, :n], self.d[:, :n]
        r, p = self.r[:, :n], self.p[:, :n]
        r0, p0 = _saturate(self.s[:, :n] + difference), _saturate(self.sz[:, :n] + difference)
        same1, same2 = (p0 < 0) == (p[..., 0] < 0), (p0 < 0) == (p[..., 1] < 0)
        wd = _saturate(a[..., 0] << 2)
        wd = np.minimum(np.where(same1, -wd, wd), 32767) >> 7
        a2 = wd + np.where(same2, 128, -128) + (a[..., 1] * 32512 >> 15)
        a2 = np.clip(a2, -12288, 12288)
        a1 = _saturate(np.where(same1, 192, -192) + (a[..., 0] * 32640 >> 15))
        limit = _saturate(15360 - a2)
        a[..., 0], a[..., 1] = np.clip(a1, -limit, limit), a2
        step = np.where(difference == 0, 0, 128)[..., None]
        step = np.where((d < 0) == (difference < 0)[..., None], step, -step)
        b[...] = _saturate(step + (b * 32640 >> 15))
        d[..., 1:], d[..., 0] = d[..., :-1].copy(), difference
        r[..., 1], r[..., 0] = r[..., 0].copy(), r0
        p[..., 1], p[..., 0] = p[..., 0].copy(), p0
        pole = (a * _saturate(r + r) >> 15).sum(axis=-1)
        self.sz[:, :n] = zero = _saturate((b * _saturate(d + d) >> 15).sum(axis=-1))
        self.s[:, :n] = _saturate(_saturate(pole) + zero)


def _synthesis(low: Ints, high: Ints) -> NDArray[np.int16]:
    """Quadrature mirror filter: bands (N, T) to samples (N, 2 T)."""
    padding = ((0, 0), (11, 0))
    total, difference = np.pad(low + high, padding), np.pad(low - high, padding)
    length = low.shape[1]
    samples = np.empty((len(low), 2 * length), dtype=np.int64)
    taps = range(12)
    samples[:, 0::2] = sum(QMF[11 - i] * difference[:, i : i + length] for i in taps) >> 11
    samples[:, 1::2] = sum(QMF[i] * total[:, i : i + length] for i in taps) >> 11
    return _saturate(samples).astype(np.int16)


def _shift(values: Ints, right: Ints) -> Ints:
    return np.where(right < 0, values << np.maximum(-right, 0), values >> np.maximum(right, 0))


def _saturate(values: Ints) -> Ints:
    return np.clip(values, -32768, 32767)
