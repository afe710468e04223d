"""Headers, cut-short files, reading and resampling."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource

from lmu_asr.data.audio.reader import (
    is_audio,
    read_audio,
    recording_from_file,
    resample,
    with_counted_length,
)
from lmu_asr.errors import DataError
from tests.data.encoded import encode
from tests.data.speech import RATE, noise, write_audio


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "opus", "ogg"])
def test_header_agrees_with_samples(tmp_path, suffix):
    path = write_audio(tmp_path / f"a.{suffix}", 0.7, rate=48000 if suffix == "opus" else RATE)
    recording = recording_from_file(path, "a")
    samples, rate = read_audio(path)
    assert samples.shape == (1, recording.num_samples)
    assert rate == recording.sampling_rate
    assert recording.duration == recording.num_samples / rate


def test_stereo_and_segment(tmp_path):
    path = write_audio(tmp_path / "a.wav", 0.5, channels=2)
    recording = recording_from_file(path, "a")
    assert recording.channel_ids == [0, 1]
    whole, _ = read_audio(path)
    part, _ = read_audio(path, 1000, 300)
    np.testing.assert_array_equal(part, whole[:, 1000:1300])


def test_missing_empty_and_not_audio(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no audio in here, only words")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    for name, reason in (
        ("gone.wav", "no such file"),
        ("empty.wav", "empty file"),
        ("text.wav", "not readable"),
        ("none.wav", "no samples"),
    ):
        with pytest.raises(DataError, match=reason):
            recording_from_file(tmp_path / name, "a")


@pytest.mark.parametrize("suffix", ["wav", "opus"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_short_is_found_in_the_header(tmp_path, suffix, share):
    path = write_audio(tmp_path / f"a.{suffix}", 3.0, rate=48000 if suffix == "opus" else RATE)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match="cut short"):
        recording_from_file(path, "a")


def test_cut_short_flac_is_found_when_read(tmp_path):
    path = write_audio(tmp_path / "a.flac", 3.0)
    frames = recording_from_file(path, "a").num_samples
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut short|not readable"):
        read_audio(path, 0, frames)


SIZES = [0, 0x7FFFF000, 0x7FFFEFFA, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("riff_size", [0, 36, 0x7FFFF024, 0x80000024, 0xFFFFFFFF])
def test_wav_of_a_pipe_has_no_size_and_is_read_to_its_end(tmp_path, size, riff_size):
    path = write_audio(tmp_path / "a.wav", 0.5)
    whole, _ = read_audio(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = size.to_bytes(4, "little")
    data[4:8] = riff_size.to_bytes(4, "little")
    path.write_bytes(data)
    assert recording_from_file(path, "a").num_samples == 8000
    np.testing.assert_array_equal(read_audio(path)[0], whole)
    np.testing.assert_array_equal(read_audio(path, 100, 50)[0], whole[:, 100:150])


@pytest.mark.parametrize("magic", [b"RIFF", b"RF64"])
@pytest.mark.parametrize("before", [0, 10001])  # a chunk of a broadcast WAV before the data
def test_wav_with_a_size_that_it_does_not_have_is_cut_short(tmp_path, magic, before):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(0.5), RATE, format={b"RF64": "RF64"}.get(magic, "WAV"))
    data = path.read_bytes()
    place = data.index(b"fmt ")
    chunk = b"bext" + before.to_bytes(4, "little") + bytes(before + before % 2)
    data = data[:place] + chunk + data[place:]
    path.write_bytes(data)
    assert recording_from_file(path, "a").num_samples == 8000
    path.write_bytes(data[:-100])
    with pytest.raises(DataError, match=f"cut short: {len(data) - 100} bytes, .* {len(data)}"):
        recording_from_file(path, "a")


@pytest.mark.parametrize("sizes", [b"\0" * 24, b"\xff" * 24])
@pytest.mark.parametrize("magic", [b"RF64", b"BW64"])
def test_rf64_of_a_pipe_is_read_to_its_end(tmp_path, sizes, magic):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(0.5), RATE, format="RF64")
    whole, _ = read_audio(path)
    data = bytearray(path.read_bytes())
    data[:4], data[20:44] = magic, sizes
    path.write_bytes(data)
    assert recording_from_file(path, "a").num_samples == 8000
    np.testing.assert_array_equal(read_audio(path)[0], whole)
    np.testing.assert_array_equal(read_audio(path, 100, 50)[0], whole[:, 100:150])


def test_riff_size_counts_where_the_data_chunk_has_none(tmp_path):
    path = write_audio(tmp_path / "a.wav", 0.5)
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert recording_from_file(path, "a").num_samples == 8000
    path.write_bytes(data[:-2000])
    with pytest.raises(DataError, match=f"cut short: {len(data) - 2000} bytes, .* {len(data)}"):
        recording_from_file(path, "a")


def test_flac_of_a_pipe_is_counted(tmp_path):
    path = write_audio(tmp_path / "a.flac", 0.5)
    whole, _ = read_audio(path)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the samples in STREAMINFO, 36 bits, become 0: not known
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert recording_from_file(path, "a").num_samples == 8000
    np.testing.assert_array_equal(read_audio(path)[0], whole)
    np.testing.assert_array_equal(read_audio(path, 7000, 1000)[0], whole[:, 7000:])


def test_a_header_that_promises_the_impossible_is_refused(tmp_path):
    path = write_audio(tmp_path / "a.flac", 0.5)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # 2^36 - 1 samples, and no memory for them
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"cut short or damaged: .* {2**36 - 1} samples"):
        recording_from_file(path, "a")
    with pytest.raises(DataError, match=r"cut short|not readable|not enough memory"):
        read_audio(path, 0, 2**45)
    soundfile.write(path, np.zeros(10_000_000), RATE)
    assert recording_from_file(path, "a").num_samples == 10_000_000


def frames_of_mp3(path: Path, rate: int) -> int:
    """Samples by the parser of FFmpeg."""
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[0])
        return sum(int(p.duration * p.time_base * rate + 0.5) for p in packets if p.size)


@pytest.mark.parametrize("bit_rate", [32000, 0])  # constant; variable: the estimate is too small
@pytest.mark.parametrize("rate", [48000, 22050])
def test_mp3_without_header_is_as_long_as_it_decodes(tmp_path, bit_rate, rate):
    quiet = np.repeat([[0.0, 1.0, 0.0]], rate, axis=1) * noise(3.0, rate=rate).T
    options = {} if bit_rate else {"flags": "+qscale", "global_quality": "236"}
    path = tmp_path / "a.mp3"
    encode(path, [quiet], rate, "libmp3lame", bit_rate, codec_options=options, write_xing="0")
    wanted = frames_of_mp3(path, rate)
    assert soundfile.info(path).frames != wanted  # an estimate
    assert recording_from_file(path, "a").num_samples == wanted
    whole, _ = read_audio(path, 0, wanted)
    assert whole.shape == (1, wanted)
    np.testing.assert_array_equal(read_audio(path)[0], whole)
    part, _ = read_audio(path, wanted - 500, 500)
    np.testing.assert_allclose(part, whole[:, -500:], atol=1e-6)


@pytest.mark.parametrize("end", [b"TAG" + bytes(125), bytes(3000), b"\xff\xfb\x90", b""])
def test_mp3_that_ends_in_a_frame_or_in_rubbish_is_kept(tmp_path, end):
    path = encode(tmp_path / "a.mp3", [noise(1.0).T], RATE, "libmp3lame", write_xing="0")
    data = path.read_bytes()
    path.write_bytes((data if end else data[: len(data) // 2 + 11]) + end)
    count = recording_from_file(path, "a").num_samples
    assert read_audio(path, 0, count)[0].shape == (1, count)
    assert abs(count - (18 if end else 9) * 1024) < 3000


def test_mp3_whose_header_promises_more_is_refused(tmp_path):
    path = encode(tmp_path / "a.mp3", [noise(1.0).T], RATE, "libmp3lame")
    assert recording_from_file(path, "a").num_samples == RATE  # without delay and padding
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut short|not readable"):
        read_audio(path, 0, RATE)


def test_raw_files_and_odd_names(tmp_path):
    for name in ("a.raw", "a.RAW"):
        (tmp_path / name).write_bytes(b"\0\1" * 1600)
        with pytest.raises(DataError, match="no header that says rate and sample format"):
            recording_from_file(tmp_path / name, "a")
    for name in ("x" * 300, "a\0b.wav"):
        with pytest.raises(DataError, match="no such file"):
            recording_from_file(tmp_path / name, "a")
    with pytest.raises(DataError, match="not a regular file"):
        recording_from_file(tmp_path, "a")
    for name in ("\udcff.WAV", "http:a b.FLAC", "file:\n.m4a"):
        suffix = Path(name).suffix.lower()
        path = write_audio(tmp_path / f"plain{suffix.replace('m4a', 'wav')}", 0.5)
        if suffix == ".m4a":
            path = encode(tmp_path / "plain.m4a", [noise(0.5).T], RATE, "aac")
        odd = path.rename(tmp_path / name)
        assert is_audio(odd)
        assert recording_from_file(odd, "a").num_samples == 8000
        assert read_audio(odd, 10, 20)[0].shape == (1, 20)


@pytest.mark.parametrize("rate", [1, 10, 3999, 768001, 2**31 - 1])
@pytest.mark.parametrize("name", ["a.wav", "a.mka"])  # libsndfile, FFmpeg
def test_a_rate_that_no_speech_has_is_refused_before_anything_is_resampled(tmp_path, name, rate):
    path = tmp_path / name
    if name == "a.wav":
        soundfile.write(path, noise(0.5), rate)
    else:
        encode(path, [noise(0.5).T], min(rate, 800000), "pcm_s16le")
    found = rate if name == "a.wav" else min(rate, 800000)
    message = f"{name}: not readable as audio: a sample rate of {found} Hz, want 4000 to 768000"
    with pytest.raises(DataError, match=message):
        recording_from_file(path, "a")
    with pytest.raises(DataError, match=message):
        read_audio(path, 0, 100)
    recording = Recording("a", [AudioSource("file", [0], str(path))], found, 8000, 8000 / found)
    with pytest.raises(DataError, match=message):
        with_counted_length(recording)


@pytest.mark.parametrize("rate", [4000, 768000])
def test_the_least_and_the_greatest_rate_are_read(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", noise(0.5), rate)
    assert recording_from_file(tmp_path / "a.wav", "a").sampling_rate == rate
    samples, _ = read_audio(tmp_path / "a.wav")
    assert resample(samples, rate, RATE).shape == (1, -(-8000 * RATE // rate))


CODECS = ("libmp3lame", "adpcm_ms", "adpcm_ima_wav", "adpcm_g722", "adpcm_yamaha", "flac")


@pytest.mark.parametrize("codec", [*CODECS, "GSM610", "G721_32", "NMS_ADPCM_32", "MS_ADPCM"])
def test_wav_of_other_codecs_is_as_long_as_it_decodes(tmp_path, codec):
    path = tmp_path / "a.wav"
    if codec.islower():
        encode(path, [noise(1.0).T], RATE, codec)
    else:
        soundfile.write(path, noise(1.0), RATE, subtype=codec)
    count = recording_from_file(path, "a").num_samples
    assert RATE <= count < RATE + 2400
    whole, _ = read_audio(path)
    assert whole.shape == (1, count)
    np.testing.assert_array_equal(read_audio(path, 0, count)[0], whole)
    np.testing.assert_array_equal(read_audio(path, 7000, 3000)[0], whole[:, 7000:10000])


def test_resample_keeps_a_tone():
    times = np.arange(8000) / 8000.0
    tone = np.sin(2 * np.pi * 440.0 * times).astype(np.float32)
    found = resample(tone, 8000, 16000)
    wanted = np.sin(2 * np.pi * 440.0 * np.arange(16000) / 16000.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[500:-500], wanted[500:-500], atol=2e-3)
    assert resample(tone, 8000, 8000) is tone
    assert len(noise(1.0)) == RATE


def test_mutated_files_are_refused_or_read_as_they_are_described(tmp_path):
    seeds = [
        *(write_audio(tmp_path / f"a.{suffix}", 0.2) for suffix in ("wav", "flac", "mp3", "ogg")),
        encode(tmp_path / "b.mp3", [noise(0.2).T], RATE, "libmp3lame", write_xing="0"),
        encode(tmp_path / "a.m4a", [noise(0.2).T], RATE, "aac"),
        encode(tmp_path / "a.webm", [noise(0.2, rate=48000).T], 48000, "libopus"),
        encode(tmp_path / "a.aac", [noise(0.2).T], RATE, "aac"),
    ]
    rng = np.random.default_rng(0)
    read = 0
    for number in range(200):
        seed = seeds[number % len(seeds)]
        data = np.frombuffer(seed.read_bytes(), np.uint8).copy()
        places = rng.integers(min(len(data), rng.choice([60, 100000])), size=rng.integers(1, 4))
        data[places] = rng.choice([0, 0x7F, 0xFF, rng.integers(256)], size=len(places))
        path = tmp_path / f"mutated{seed.suffix}"
        path.write_bytes(data[: rng.integers(1, len(data)) if number % 7 == 0 else None].tobytes())
        try:
            recording = recording_from_file(path, "a")
            samples, rate = read_audio(path, 0, recording.num_samples)
        except DataError:
            continue
        assert samples.shape == (recording.num_channels, recording.num_samples)
        assert rate == recording.sampling_rate
        read += 1
    assert read > 20
