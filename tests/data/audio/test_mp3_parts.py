"""MP3 files of several parts: all of them are read, or it is said why not."""

from __future__ import annotations

import numpy as np
import pytest

from lmu_asr.data.audio.reader import read_audio, recording_from_file
from lmu_asr.errors import DataError
from tests.data.encoded import encode
from tests.data.speech import RATE, noise


def mp3(tmp_path, seed=0, tag="1", channels=1, rate=RATE) -> bytes:
    samples = noise(1.0, seed, channels, rate).T
    return encode(tmp_path / "part.mp3", [samples], rate, "libmp3lame", write_xing=tag).read_bytes()


@pytest.mark.parametrize("second_tag", ["0", "1"])
@pytest.mark.parametrize("between", [b"", b"TAG" + bytes(125), bytes(100)])
def test_parts_that_cat_joined_are_all_read(tmp_path, second_tag, between):
    first, second = mp3(tmp_path), mp3(tmp_path, 1, second_tag)
    path = tmp_path / "a.mp3"
    alone = []
    for part in (first, second):
        path.write_bytes(part)
        alone.append(read_audio(path)[0][0])
    path.write_bytes(first + between + second)
    count = recording_from_file(path, "a").num_samples
    whole = read_audio(path)[0][0]
    assert len(whole) == count > 2 * RATE
    for seconds, part in enumerate(alone):  # each is in it, after the delay of its encoder
        speech = part[4000:12000]
        places = range(seconds * RATE + 3000, seconds * RATE + 10000)
        assert min(np.abs(whole[p : p + 8000] - speech).max() for p in places) < 1e-3
    np.testing.assert_allclose(read_audio(path, count - 500, 500)[0][0], whole[-500:], atol=1e-6)


@pytest.mark.parametrize("change", [{"channels": 2}, {"rate": 22050}])
def test_parts_that_differ_are_refused(tmp_path, change):
    first = mp3(tmp_path)
    (tmp_path / "a.mp3").write_bytes(first + mp3(tmp_path, **change))
    with pytest.raises(
        DataError, match=rf"1 channels at 16000 Hz become .* after byte {len(first)}"
    ):
        recording_from_file(tmp_path / "a.mp3", "a")


@pytest.mark.parametrize(
    "end", [b"TAG" + bytes(125), b"APETAGEX" + bytes(300), bytes(range(256)) * 9]
)
def test_what_taggers_leave_at_the_end_is_no_part(tmp_path, end):
    (tmp_path / "a.mp3").write_bytes(mp3(tmp_path) + end)
    assert recording_from_file(tmp_path / "a.mp3", "a").num_samples == RATE
