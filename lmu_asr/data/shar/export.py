"""Export of stored features to Lhotse Shar, for readers that go through them in sequence.

``python -m lmu_asr.data.shar.export --features data/mini/fbank80 --split train --out DIR`` writes
``train/cuts.<shard>.jsonl.gz`` and ``train/features.<shard>.tar``, a pair for each shard of stage 1,
below a directory or ``s3://bucket/prefix``; ``lhotse.CutSet.from_shar`` reads them, and so does
training with ``train.shar=DIR/train``. Finished shards of an earlier call are kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lhotse import MonoCut
from lhotse.shar import SharWriter

from lmu_asr.data.features.archive import DAMAGED, file_crc
from lmu_asr.data.features.part import Shard, read_shard
from lmu_asr.data.features.prepare import with_folder
from lmu_asr.data.shar.files import KEYS, archive_name, local_marks, mark
from lmu_asr.errors import DataError, LmuAsrError
from lmu_asr.files import atomic_write_text
from lmu_asr.progress import progress, setup_logging
from lmu_asr.remote import RemoteFolder, is_remote


def export_shar(features_dir: Path, split: str, out: str) -> int:
    """Write a split as Shar, shard by shard.

    Args:
        features_dir: what stage 1 left.
        split: name of the split.
        out: directory, or ``s3://bucket/prefix``.

    Returns:
        Number of shards written; those that stand already are not.

    Raises:
        DataError: stage 1 has not finished this split, or an archive of it is damaged.
        RemoteError: the bucket cannot be written.
    """
    if not (features_dir / f"{split}_cuts.jsonl.gz").is_file():
        raise DataError(f"{features_dir}: no {split}_cuts.jsonl.gz; run stage 1 (features) first")
    target = _Bucket(out, split) if is_remote(out) else _Directory(Path(out), split)
    written = 0
    paths = sorted((features_dir / "feats").glob(f"{split}-[0-9][0-9][0-9][0-9][0-9].jsonl.gz"))
    for number, path in enumerate(progress(paths, f"shar of {split}", unit="shard")):
        shard = read_shard(path)
        if shard is None:
            raise DataError(f"{path}: not a whole shard; run stage 1 (features) again")
        if target.key(number) != shard.key:
            if not shard.is_whole:
                raise DataError(f"{shard.archive}: missing or damaged; {DAMAGED}")
            with tempfile.TemporaryDirectory() as folder:
                _write(shard, features_dir, number, Path(folder))
                target.take(Path(folder), number, shard.key)
            written += 1
    return written


def _write(shard: Shard, features_dir: Path, number: int, folder: Path) -> None:
    fields = {"features": "lilcom"}
    suffix = f".{number:06d}"
    with SharWriter(folder, fields, shard_size=None, shard_suffix=suffix) as writer:
        for cut in shard.cuts():
            full = with_folder(MonoCut.from_dict(cut), features_dir.resolve())
            writer.write(full.drop_recording())


class _Directory:
    """A local target: files are moved into place, the mark last."""

    def __init__(self, root: Path, split: str) -> None:
        self.root, self._keys = root / split, root / KEYS / split
        self._marks = local_marks(self.root)

    def key(self, number: int) -> str:
        name = f"{number:06d}"
        key, crc = self._marks.get(name, ("", ""))
        archive = self.root / archive_name(name)
        whole = archive.is_file() and crc == f"{file_crc(archive):08x}"
        return key if whole else ""

    def take(self, folder: Path, number: int, key: str) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            temporary = self.root / f".{path.name}.tmp"
            temporary.write_bytes(path.read_bytes())
            os.replace(temporary, self.root / path.name)
        name = f"{number:06d}"
        atomic_write_text(self._keys / name, mark(key, self.root / archive_name(name)))


class _Bucket:
    """A bucket as target: the mark is an object's name, written last."""

    def __init__(self, url: str, split: str) -> None:
        self.data = RemoteFolder(f"{url}/{split}")
        self.marks = RemoteFolder(f"{url}/{KEYS}/{split}")
        self._keys = dict(name.split("-", 1) for name in self.marks.files())

    def key(self, number: int) -> str:
        key, _, crc = self._keys.get(f"{number:06d}", "").partition("-")
        return key if crc else ""

    def take(self, folder: Path, number: int, key: str) -> None:
        name = f"{number:06d}"
        text = mark(key, folder / archive_name(name))
        for path in sorted(folder.iterdir()):
            self.data.put(path, path.name)
        if old := self._keys.get(name):
            self.marks.remove([f"{name}-{old}"])
        empty = folder / "mark"
        empty.touch()
        self.marks.put(empty, f"{name}-{text}")


def main(argv: Sequence[str] | None = None) -> int:
    """Export from the command line; returns the exit status."""
    setup_logging()
    parser = argparse.ArgumentParser(prog="python -m lmu_asr.data.shar.export", description=__doc__)
    parser.add_argument("--features", type=Path, required=True, help="what stage 1 left")
    parser.add_argument("--split", required=True)
    parser.add_argument("--out", required=True, help="directory or s3://bucket/prefix")
    args = parser.parse_args(argv)
    try:
        written = export_shar(args.features, args.split, args.out)
    except LmuAsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {written} shards written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
