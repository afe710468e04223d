"""Files that end before their header says, headers without a size, and two files in one."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import soundfile

from lmu_asr.data.audio.reader import read_audio, recording_from_file, with_counted_length
from lmu_asr.errors import DataError
from tests.data.encoded import encode
from tests.data.speech import RATE, noise

# format of libsndfile: samples, subtype
EXACT = {
    "WAV": ("PCM_16", "FLOAT", "ULAW", "IMA_ADPCM", "GSM610"),
    "RF64": ("PCM_16",),
    "NIST": ("PCM_16", "ULAW"),
    "AIFF": ("PCM_16", "FLOAT", "PCM_S8"),
    "AU": ("PCM_16", "DOUBLE"),
    "CAF": ("PCM_16", "ALAW"),
    "W64": ("PCM_16", "PCM_U8"),
}


def write(path: Path, kind: str, subtype: str = "PCM_16", **options: str) -> bytes:
    rate = 8000 if subtype == "GSM610" else RATE
    soundfile.write(path, noise(0.5), rate, format=kind, subtype=subtype, **options)
    return path.read_bytes()


@pytest.mark.parametrize(("kind", "subtype"), [(k, s) for k, all_ in EXACT.items() for s in all_])
@pytest.mark.parametrize("name", ["a.wav", "a"])
def test_what_ends_before_its_header_says_is_refused(tmp_path, kind, subtype, name):
    data = write(tmp_path / name, kind, subtype)
    whole = len(data) - (subtype == "GSM610")  # a byte of padding
    recording = recording_from_file(tmp_path / name, "a")
    with_counted_length(recording)
    for kept in (len(data) - 2, len(data) // 2, len(data) * 3 // 4):
        (tmp_path / name).write_bytes(data[:kept])
        with pytest.raises(DataError, match=f"cut short: {kept} bytes, its header says {whole}"):
            recording_from_file(tmp_path / name, "a")
        with pytest.raises(DataError, match="cut short"):  # of a manifest of Lhotse
            with_counted_length(recording)


@pytest.mark.parametrize(("name", "codec"), [("a.mka", "pcm_s16le"), ("a.webm", "libopus")])
def test_matroska_is_exact_unless_it_is_of_a_pipe(tmp_path, name, codec):
    path = tmp_path / name
    data = encode(path, [noise(1.0, rate=48000).T], 48000, codec).read_bytes()
    count = recording_from_file(path, "a").num_samples
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"{len(data) - 1} bytes, its header says {len(data)}"):
        recording_from_file(path, "a")
    path.write_bytes(data + data)  # FFmpeg reads both
    assert abs(recording_from_file(path, "a").num_samples - 2 * count) < 1000
    place = data.index(b"\x18\x53\x80\x67") + 4
    path.write_bytes(data[:place] + b"\x01" + b"\xff" * 7 + data[place + 8 : -1])
    assert count - 1000 < recording_from_file(path, "a").num_samples <= count


def test_avi_and_8svx_are_exact(tmp_path):
    soundfile.write(tmp_path / "a.svx", noise(0.5), RATE, format="SVX", subtype="PCM_16")
    encode(tmp_path / "a.avi", [noise(0.5).T], RATE, "pcm_s16le")
    for name in ("a.svx", "a.avi"):
        data = (tmp_path / name).read_bytes()
        assert recording_from_file(tmp_path / name, "a").num_samples == 8000
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match=rf"{len(data) // 2} bytes, its header says \d"):
            recording_from_file(tmp_path / name, "a")


@pytest.mark.parametrize("endian", ["BIG", "LITTLE"])
def test_byte_order(tmp_path, endian):
    for kind in ("AU", "AIFF", "CAF", "NIST", "WAV"):
        data = write(tmp_path / "a", kind, endian=endian)
        assert recording_from_file(tmp_path / "a", "a").num_samples == 8000
        (tmp_path / "a").write_bytes(data[:-2])
        with pytest.raises(DataError, match=f"{len(data) - 2} bytes, its header says {len(data)}"):
            recording_from_file(tmp_path / "a", "a")


def unsized(kind: str, data: bytes) -> bytes:
    """The file as who writes to a pipe leaves it."""
    if kind == "AU":
        return data[:8] + b"\xff" * 4 + data[12:]
    place = data.index({"AIFF": b"SSND", "CAF": b"data", "W64": b"data"}[kind])
    if kind == "AIFF":
        return b"FORM\0\0\0\0" + data[8 : place + 4] + bytes(4) + data[place + 8 :]
    skip, size = (4, b"\xff" * 8) if kind == "CAF" else (16, struct.pack("<Q", 2**63 - 1))
    return data[: place + skip] + size + data[place + skip + 8 :]


@pytest.mark.parametrize("kind", ["AU", "CAF", "W64"])
def test_a_header_without_a_size_is_read_to_the_end(tmp_path, kind):
    data = unsized(kind, write(tmp_path / "a", kind))
    (tmp_path / "a").write_bytes(data)
    assert recording_from_file(tmp_path / "a", "a").num_samples == 8000
    (tmp_path / "a").write_bytes(data[:-2000])
    assert recording_from_file(tmp_path / "a", "a").num_samples == 7000
    assert read_audio(tmp_path / "a", 6000, 1000)[0].shape == (1, 1000)


def test_chunks_behind_the_samples_and_compressed_sphere_are_no_loss(tmp_path):
    for kind in ("WAV", "AIFF", "CAF"):
        data = write(tmp_path / "a", kind)
        big = kind != "WAV"
        chunk = (
            b"note" + struct.pack(">Q" if kind == "CAF" else ">I" if big else "<I", 6) + b"abcdef"
        )
        (tmp_path / "a").write_bytes(data + chunk)
        assert recording_from_file(tmp_path / "a", "a").num_samples == 8000
    data = write(tmp_path / "a", "NIST")
    coding = b"sample_coding -s26 pcm,embedded-shorten-v2.00\n"
    head = data[:1024].replace(b"sample_coding -s3 pcm\n", coding)[:1024]
    (tmp_path / "a").write_bytes(head + data[1024:5000])
    with pytest.raises(DataError, match="decoder of shorten"):  # FFmpeg reads it
        recording_from_file(tmp_path / "a", "a")


@pytest.mark.parametrize(("kind", "place"), [("WAV", 41), ("AIFF", 44)])
def test_a_size_that_leaves_samples_behind_it_is_refused(tmp_path, kind, place):
    data = bytearray(write(tmp_path / "a", kind))
    data[place] ^= 4
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError, match=f"samples end at byte .*, the whole at byte {len(data)}"):
        recording_from_file(tmp_path / "a", "a")


@pytest.mark.parametrize("kind", EXACT)
def test_two_files_in_one_are_refused(tmp_path, kind):
    data = write(tmp_path / "a", kind)
    (tmp_path / "a").write_bytes(data + data)
    with pytest.raises(DataError, match=f"a second file begins at byte {len(data)}, .* sox"):
        recording_from_file(tmp_path / "a", "a")
