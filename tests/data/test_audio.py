"""Headers, cut-short files, reading and resampling."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from lmu_asr.data.audio import read_audio, recording_from_file, resample
from lmu_asr.errors import DataError
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


def test_wav_of_a_pipe_has_no_size_and_is_accepted(tmp_path):
    path = write_audio(tmp_path / "a.wav", 0.5)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert recording_from_file(path, "a").num_samples == 8000


def test_resample_keeps_a_tone():
    times = np.arange(8000) / 8000.0
    tone = np.sin(2 * np.pi * 440.0 * times).astype(np.float32)
    found = resample(tone, 8000, 16000)
    wanted = np.sin(2 * np.pi * 440.0 * np.arange(16000) / 16000.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[500:-500], wanted[500:-500], atol=2e-3)
    assert resample(tone, 8000, 8000) is tone
    assert len(noise(1.0)) == RATE
