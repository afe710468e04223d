"""Lhotse Shar: what an export has sealed is refused or the same; what it has not ends in no traceback."""

from __future__ import annotations

import dataclasses
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path

from lmu_asr.config import Config, TrainConfig
from lmu_asr.data.shar.files import KEYS, archive_name, cuts_name, mark
from lmu_asr.data.shar.sampler import build_shar_loader, open_shar
from tests.data.shards import BINS, write_shar
from tests.fuzz.harness import Target

CONFIG = dataclasses.replace(Config(), train=TrainConfig(num_workers=0, max_duration=4.0))
SHARDS = ("000000", "000001")
LISTS, ARCHIVES, MARKS = (
    [f"train/{cuts_name(name)}" for name in SHARDS],
    [f"train/{archive_name(name)}" for name in SHARDS],
    [f"{KEYS}/train/{name}" for name in SHARDS],
)


def files(field: str) -> dict[str, bytes]:
    """Four utterances in two shards, with the marks of an export."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "train")
        write_shar(folder, count=4, shard_size=2, field=field)
        found = {f"train/{path.name}": path.read_bytes() for path in folder.iterdir()}
        for number, shard in zip(MARKS, SHARDS, strict=True):
            found[number] = mark("k" * 64, folder / archive_name(shard)).encode()
    return found


def rows(folder: Path) -> dict[str, bytes]:
    """Return the features of an epoch by utterance, as training reads them."""
    index = folder / "index"
    index.unlink(missing_ok=True)
    found = {}
    for batch in build_shar_loader(open_shar(str(folder / "train"), index, BINS), CONFIG):
        for name, length, row in zip(batch.ids, batch.feature_lens, batch.features, strict=True):
            assert row[:length].shape == (length, BINS)
            found[name] = row[:length].numpy().tobytes()
    return found


def sealed() -> Target:
    """A list has the checksum of gzip, an archive that of its mark."""
    good: dict[str, bytes] = {}

    def read(folder: Path) -> str:
        found = rows(folder)
        good.update({} if good else found)  # the good example is read first
        assert found == good
        return "equal"

    return Target("shar", files("lilcom"), read, text=False)


def _loose(name: str, field: str, changed: list[str], remake: Callable[[bytes], bytes]) -> Target:
    def read(folder: Path) -> str:
        rows(folder)
        return "read"

    data = {path: content for path, content in files(field).items() if path not in MARKS}
    if remake is not bytes:
        data |= {path: gzip.decompress(data[path]) for path in changed}
    return Target(name, data, read, remake is not bytes, changed, remake)


TARGETS = {
    "shar": sealed,
    "shar lines": lambda: _loose("shar lines", "lilcom", LISTS, gzip.compress),
    "shar lilcom": lambda: _loose("shar lilcom", "lilcom", ARCHIVES, bytes),
    "shar numpy": lambda: _loose("shar numpy", "numpy", ARCHIVES, bytes),
}
