"""Records on disk behave as lists and dictionaries do, in little memory."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import Recording, RecordingSet
from lhotse.audio import AudioSource

from lmu_asr.data import rows as rows_module
from lmu_asr.data.manifests import recording_rows
from lmu_asr.data.rows import Rows, names
from lmu_asr.errors import DataError

ITEMS = st.lists(
    st.tuples(st.text(st.characters(exclude_categories=()), max_size=3), st.integers()), max_size=60
)


def keyed(items) -> Rows:
    return Rows(lambda item: item[0], items)


@settings(max_examples=60, deadline=None)
@given(ITEMS, st.integers(1, 7))
def test_as_lists_and_dictionaries(items, together):
    before, rows_module.TOGETHER = rows_module.TOGETHER, together
    try:
        found = keyed(items[:20])
        keys = [key for key, _ in items]
        assert [key in found for key in keys] == [True] * min(20, len(items)) + [
            key in keys[:20] for key in keys[20:]
        ]
        found.extend(items[20:])
        assert list(found) == items and len(found) == len(items)
        counts = Counter(keys)
        first = {key: next(i for i in items if i[0] == key) for key in keys}
        assert list(found.firsts()) == [(first[key], counts[key]) for key in counts]
        assert found.count_keys() == len(counts)
        assert found.repeated() == [key for key in counts if counts[key] > 1]
        assert list(found.by_key()) == sorted(items, key=lambda item: item[0])
        assert all(found.get(key) == first[key] for key in keys)
        assert all(found.all_of(key) == [i for i in items if i[0] == key] for key in keys)
        some = set(keys[::2])
        assert list(found.selected(some)) == [item for item in items if item[0] in some]
        assert "absent" not in found and found.get("absent") is None
    finally:
        rows_module.TOGETHER = before


def test_places():
    found = names(f"u{i}" for i in range(2500))
    assert (found[0], found[1999], found[-1]) == ("u0", "u1999", "u2499")
    with pytest.raises(IndexError):
        found[2500]
    with pytest.raises(TypeError, match="want a number, got 'u0'"):
        found["u0"]


def test_a_lhotse_set_holds_them(tmp_path):
    source = AudioSource("file", [0, 1], "a.wav")
    given = [Recording(f"r{i}", [source], 16000, 100, 100 / 16000) for i in range(5)]
    held = RecordingSet(recording_rows(given))
    assert list(held) == given and held[3] == given[3] and len(held) == 5
    assert recording_rows(held) is held.data
    assert list(recording_rows(RecordingSet.from_recordings(given))) == given
    held.to_file(tmp_path / "recordings.jsonl")
    assert list(RecordingSet.from_file(tmp_path / "recordings.jsonl")) == given


def test_no_room(tmp_path):
    """A disk that is full is named; SQLite raises the same when a limit of pages is reached."""
    found = names()
    found._data.execute("PRAGMA max_page_count=20")
    with pytest.raises(DataError, match=r"temporary files of preparation: .* full; .*TMPDIR"):
        found.extend(f"{i:0200d}" for i in range(2000))


MEMORY = """
from pathlib import Path
from lmu_asr.data.rows import names
def peak():  # not ru_maxrss, which starts with the peak of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
held = names(f"{i:0100d}" for i in range(1000))
list(held.firsts())
before = peak()
held = names(f"{i * 7919 % 300000:0100d}" for i in range(300000))
assert sum(1 for _ in held.firsts()) == 300000 and held.repeated() == []
assert sum(1 for _ in held.by_key()) == 300000 and "no" not in held
print(peak() - before)
"""


def test_little_memory():
    """300,000 names of 100 characters: 45 MB as strings of Python, in a list alone."""
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", MEMORY], cwd=root, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < 20
