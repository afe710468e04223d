"""Formats that only FFmpeg reads: lengths, segments to the sample, tracks, files that are cut."""

from __future__ import annotations

import threading

import av
import numpy as np
import pytest

from lmu_asr.data.audio import av as av_audio
from lmu_asr.data.audio.reader import read_audio, recording_from_file
from lmu_asr.errors import DataError
from tests.data.encoded import encode
from tests.data.speech import RATE, noise

# name: codec, rate, samples decoded of 1.25 s. MP4 says the encoder's delay and padding, Matroska
# the delay; .aac and .amr are whole frames, of 1024 and 160, with the delay.
LOSSY = {
    "a.m4a": ("aac", 16000, 20000),
    "a.MP4": ("aac", 16000, 20000),
    "a.3gp": ("aac", 16000, 20000),
    "a.aac": ("aac", 16000, 21 * 1024),
    "a.webm": ("libopus", 48000, 60000),
    "a.mka": ("libopus", 48000, 60000),
    "a.amr": ("libopencore_amrnb", 8000, 10080),
    "a.mkv": ("ac3", 48000, 40 * 1536 - 256),
}
LOSSLESS = {
    "a.mka": "pcm_s16le",
    "a.mov": "pcm_s24le",
    "a.avi": "pcm_u8",
    "a.m4a": "alac",
    "a.ogg": "flac",
    "b.mka": "pcm_f32le",
    "a.mkv": "pcm_s32le",
}


@pytest.mark.parametrize("name", LOSSY)
def test_length_is_the_decoded_one_and_segments_are_of_the_whole(tmp_path, name):
    codec, rate, count = LOSSY[name]
    path = encode(tmp_path / name, [noise(1.25, rate=rate).T], rate, codec)
    recording = recording_from_file(path, "a")
    assert (recording.num_samples, recording.sampling_rate) == (count, rate)
    whole, found_rate = read_audio(path)
    assert whole.shape == (1, count) and found_rate == rate and whole.dtype == np.float32
    parts = [(0, 700), (700, 4000), (4096, 10), (300, 5000), (count - 33, 33), (0, count)]
    for offset, length in parts:  # in order, after a gap, backwards, at the end
        np.testing.assert_array_equal(
            read_audio(path, offset, length)[0], whole[:, offset : offset + length]
        )
    with pytest.raises(DataError, match=f"cut short: ends after {count} samples"):
        read_audio(path, count - 10, 11)


@pytest.mark.parametrize("name", LOSSLESS)
def test_samples_have_the_scale_of_libsndfile(tmp_path, name):
    wanted = np.round(noise(0.3, channels=2).T * 128) / 128  # exact in 8 bits and more
    path = encode(tmp_path / name, [wanted], RATE, LOSSLESS[name])
    np.testing.assert_array_equal(read_audio(path)[0], wanted.astype(np.float32))


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus")])
def test_delay_of_the_encoder_is_gone(tmp_path, name, codec):
    clicks = np.zeros((1, 48000))
    clicks[0, 12000:36000:6000] = 0.9
    samples, _ = read_audio(encode(tmp_path / name, [clicks], 48000, codec, 128000))
    for place in range(12000, 36000, 6000):
        near = np.abs(samples[0, place - 2000 : place + 2000])
        assert abs(int(near.argmax()) - 2000) <= 2


def test_of_several_tracks_the_first_is_read_and_that_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(av_audio, "_said", iter(range(1, 100)))
    first, second = noise(0.5, 1).T, noise(0.5, 2).T
    path = encode(tmp_path / "a.mkv", [first, second], RATE, "pcm_f32le", video=True)
    assert recording_from_file(path, "a").num_samples == 8000
    np.testing.assert_array_equal(read_audio(path)[0], first.astype(np.float32))
    assert [r.getMessage() for r in caplog.records] == [
        f"{path}: 2 audio tracks, the first is read"
    ]


def test_film_without_sound_play_lists_and_rubbish_are_named(tmp_path):
    film = encode(tmp_path / "a.mp4", [], RATE, "aac", video=True)
    with pytest.raises(DataError, match=r"no audio track in it \(found: video\)"):
        recording_from_file(film, "a")
    sound = encode(tmp_path / "b.m4a", [noise(0.2).T], RATE, "aac")
    (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{sound}\n#EXT-X-ENDLIST\n")
    (tmp_path / "a.ffconcat").write_text(f"ffconcat version 1.0\nfile {sound.name}\n")
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    (tmp_path / "a.bin").write_bytes(np.random.default_rng(0).bytes(50000))
    for name in ("a.m3u8", "a.ffconcat", "a.srt", "a.bin"):
        with pytest.raises(DataError, match=r"not readable|cut short"):
            recording_from_file(tmp_path / name, "a")


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.m4a", "aac", {"movflags": "faststart"}),
        ("b.m4a", "aac", {}),  # its index is at the end
        ("a.aac", "aac", {}),
        ("a.mka", "pcm_s16le", {}),
        ("a.ogg", "flac", {}),
    ],
)
def test_half_a_file_is_refused(tmp_path, name, codec, options):
    path = encode(tmp_path / name, [noise(4.0).T], RATE, codec, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cut short|not readable"):
        recording_from_file(path, "a")


def test_a_stream_that_changes_its_channels_is_refused(tmp_path):
    mono = encode(tmp_path / "a.aac", [noise(0.5).T], RATE, "aac").read_bytes()
    stereo = encode(tmp_path / "b.aac", [noise(0.5, channels=2).T], RATE, "aac").read_bytes()
    (tmp_path / "c.aac").write_bytes(mono + stereo)
    with pytest.raises(DataError, match="1 channels at 16000 Hz become 2 at 16000 Hz after"):
        recording_from_file(tmp_path / "c.aac", "a")


def test_segments_in_order_are_one_pass(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.m4a", [noise(1.0).T], RATE, "aac")
    whole, _ = read_audio(path)
    opened = []
    original = av_audio._frames
    monkeypatch.setattr(av_audio, "_frames", lambda p: opened.append(p) or original(p))
    for offset in (0, 1000, 2500, 9000):
        np.testing.assert_array_equal(
            read_audio(path, offset, 1000)[0], whole[:, offset : offset + 1000]
        )
    assert len(opened) == 1
    encode(path, [noise(1.0, 5).T], RATE, "aac")  # another file under the name
    assert not np.array_equal(read_audio(path, 10000, 1000)[0], whole[:, 10000:11000])
    assert len(opened) == 2


def test_threads_do_not_share_a_place(tmp_path):
    path = encode(tmp_path / "a.webm", [noise(1.0, rate=48000).T], 48000, "libopus")
    whole, _ = read_audio(path)
    wrong: list[int] = []

    def read_all(seed: int) -> None:
        for offset in np.random.default_rng(seed).integers(0, 40000, 20):
            part, _ = read_audio(path, int(offset), 3000)
            wrong.extend([offset] * (not np.array_equal(part, whole[:, offset : offset + 3000])))

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tags_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.mka"
    encode(path, [noise(0.2).T], RATE, "pcm_s16le")
    data = path.read_bytes()
    assert data.count(b"Lavf") >= 1
    path.write_bytes(data.replace(b"Lavf", b"L\xe9\xff\xfe"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    assert recording_from_file(path, "a").num_samples == 3200
