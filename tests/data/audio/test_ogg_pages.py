"""Ogg: the sum of each page against its definition, and what a decoder would leave out in silence."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from lmu_asr.data.audio.ogg_pages import page_sum, refuse_damaged_ogg
from lmu_asr.data.audio.reader import read_audio, recording_from_file
from lmu_asr.errors import DataError
from tests.data.encoded import encode
from tests.data.speech import RATE, noise


def long_division(data: bytes) -> int:
    """CRC-32 bit by bit, as RFC 3533 has it."""
    crc = 0
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


def test_page_sum_is_that_of_the_definition():
    data = np.random.default_rng(0).bytes(1000)
    for length in (0, 1, 2, 3, 27, 1000):
        assert page_sum(data[:length]) == long_division(data[:length])


def pages(data: bytes) -> list[bytes]:
    """The pages of a file."""
    found = []
    while data:
        count = data[26]
        length = 27 + count + sum(data[27 : 27 + count])
        found.append(data[:length])
        data = data[length:]
    return found


def write(path, subtype="VORBIS", seconds=3.0, seed=0) -> bytes:
    if subtype == "FLAC":
        encode(path, [noise(seconds, seed).T], RATE, "flac")
    else:
        soundfile.write(path, noise(seconds, seed), RATE, format="OGG", subtype=subtype)
    return path.read_bytes()


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS", "FLAC"])
def test_one_flipped_bit_is_found_and_placed(tmp_path, subtype):
    path = tmp_path / "a.ogg"
    data = write(path, subtype)
    count = recording_from_file(path, "a").num_samples
    assert count == 48000 == read_audio(path)[0].shape[1]
    whole = pages(data)
    rng = np.random.default_rng(0)
    for number in range(2, len(whole)):
        begin = sum(map(len, whole[:number]))
        flipped = bytearray(data)
        flipped[begin + rng.integers(4, len(whole[number]))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(
            DataError, match=rf"(page {number} at byte {begin}|not readable|last p)"
        ):
            recording_from_file(path, "a")
    for place in rng.integers(len(data), size=20):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(DataError, match=r"cut short|damaged|not readable"):
            recording_from_file(path, "a")


def check(data: bytes, reads_chains: bool = False) -> None:
    refuse_damaged_ogg(io.BytesIO(data), "a.ogg", reads_chains)


def test_pages_that_are_missing_twice_there_or_cut(tmp_path):
    data = write(tmp_path / "a.ogg")
    whole = pages(data)
    check(data)
    check(data + b"TAG" + bytes(125))  # what a tagger left
    for number in range(2, len(whole)):
        where = f"page {number} at byte {sum(map(len, whole[:number]))}"
        with pytest.raises(DataError, match=rf"{where}: number|its last page is missing"):
            check(b"".join(whole[:number] + whole[number + 1 :]))
        with pytest.raises(
            DataError, match=f"page {number + 1} at byte .*: number {number} follows"
        ):
            check(b"".join(whole[: number + 1] + whole[number:]))
        with pytest.raises(DataError, match=f"no Ogg {where}"):
            check(b"".join(whole[:number]) + b"rubbish" + b"".join(whole[number:]))
    for kept in (30, len(data) // 2, len(data) - 1):
        with pytest.raises(DataError, match=r"cut short: .*its last page is missing or not whole"):
            check(data[:kept])


def test_blocks_of_a_large_file(tmp_path, monkeypatch):
    data = write(tmp_path / "a.ogg", seconds=10.0)
    monkeypatch.setattr("lmu_asr.data.audio.ogg_pages.BLOCK", 4097)
    check(data)
    with pytest.raises(DataError, match="checksum"):
        check(data[:-1] + bytes([data[-1] ^ 1]))


def test_streams_that_follow_one_another_are_not_dropped(tmp_path):
    first, second = (write(tmp_path / "a.ogg", "VORBIS", 1.0, seed) for seed in (0, 1))
    other = bytearray(pages(second)[0])  # of another stream
    struct.pack_into("<I", other, 14, 77)
    (tmp_path / "a.ogg").write_bytes(first + second)
    with pytest.raises(
        DataError, match=f"a second Ogg stream begins with .* byte {len(first)}, .*"
    ):
        recording_from_file(tmp_path / "a.ogg", "a")
    flac = write(tmp_path / "a.ogg", "FLAC", 1.0)
    (tmp_path / "a.ogg").write_bytes(flac + flac)  # FFmpeg reads both
    assert recording_from_file(tmp_path / "a.ogg", "a").num_samples == 2 * RATE
