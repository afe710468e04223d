"""The files of a Lhotse Shar directory, here or on S3: which there are, and what is in an archive.

A shard is a pair: ``cuts.<number>.jsonl.gz`` and ``features.<number>.tar``. The archive holds two
members for each cut, in the order of the cuts: ``<id>.llc`` (lilcom) or ``<id>.npy``, then ``<id>.json``.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import logging
import re
import tarfile
import tempfile
import tokenize
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lilcom
import numpy as np
from numpy.typing import NDArray

from lmu_asr.data.features.archive import file_crc
from lmu_asr.errors import DataError, RemoteError
from lmu_asr.remote import RemoteFile, RemoteFolder, is_remote

KEYS = ".keys"  # beside the splits' directories: one file a finished shard, of which it tells the origin
SHAR = "shar"  # storage type of utterances whose features lie in an archive
ADVICE = "copy it again, or export it again with python -m lmu_asr.data.shar.export"


def _load_npy(data: bytes) -> Any:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (SyntaxError, tokenize.TokenError, MemoryError) as error:  # of a damaged header
        raise ValueError(f"no array: {error}") from error


DECODERS: dict[str, Callable[[bytes], Any]] = {
    ".llc": lilcom.decompress,
    ".npy": _load_npy,
}
Member = tuple[int, int, str]  # offset and size in bytes, suffix


class SharFolder:
    """The shards below a directory or ``s3://bucket/prefix``.

    Args:
        address: what holds ``cuts.*.jsonl.gz`` and ``features.*.tar``.

    Attributes:
        address: as given.
        names: number of each shard as its files spell it, in order.

    Raises:
        DataError: no shard is there, one is missing, or has one of its two files alone.
        RemoteError: the bucket cannot be read.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.is_remote = is_remote(address)
        self._remote = RemoteFolder(address) if self.is_remote else None
        self._files = self._remote.files() if self._remote else _local_files(Path(address))
        self.names = self._checked_names()

    @property
    def state(self) -> list[list[Any]]:
        """Name, size and time of every file: what an index of them depends on."""
        names = [f(name) for name in self.names for f in (cuts_name, archive_name)]
        return [[name, self._files[name].size, self._files[name].modified] for name in names]

    def cuts(self, name: str, digest: Any) -> list[dict[str, Any]]:
        """Read the cuts of a shard and add their bytes to ``digest``.

        Raises:
            DataError: the file is cut short or no list of cuts.
        """
        file = cuts_name(name)
        with tempfile.TemporaryDirectory() as folder:
            packed = self.local(file, Path(folder)).read_bytes()
        try:
            data = gzip.decompress(packed)
            digest.update(hashlib.sha256(data).digest())
            return [json.loads(line) for line in data.splitlines()]
        except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
            raise DataError(
                f"{self.address}/{file}: not a whole list of cuts ({error}); {ADVICE}"
            ) from error

    def local(self, file: str, folder: Path) -> Path:
        """Return the path of a file on this machine, fetched into ``folder`` from a bucket."""
        if self._remote is None:
            return Path(self.address, file)
        path = folder / file
        self._remote.get(file, path, self._files[file])
        return path

    def check_sum(self, name: str, crc: int) -> None:
        """Compare the checksum of a shard's archive with the one that its export left, if it did.

        Raises:
            DataError: they differ.
        """
        wanted = self._sums.get(name)
        if wanted is not None and wanted != crc:
            raise DataError(
                f"{self.address}/{archive_name(name)}: damaged: checksum {crc:08x}, the export left "
                f"{wanted:08x}; {ADVICE}"
            )

    @functools.cached_property
    def _sums(self) -> dict[str, int]:
        """Checksum of each archive, from the marks of the export; Lhotse's own leaves none."""
        marks = remote_marks(self.address) if self.is_remote else local_marks(Path(self.address))
        sums = {name: int(crc, 16) for name, (_, crc) in marks.items() if crc}
        if not sums.keys() >= set(self.names):
            logging.warning(
                "%s: archives without checksums: damage on the way or on the disk would not be seen; "
                "a new export by python -m lmu_asr.data.shar.export has them",
                self.address,
            )
        return sums

    def check_ends(self) -> None:
        """Find archives that were cut short by their last bytes, without reading them; local ones.

        Raises:
            DataError: an archive does not end as archives do.
        """
        for name in self.names if not self.is_remote else ():
            path = Path(self.address, archive_name(name))
            with open(path, "rb") as stream:
                size = stream.seek(0, io.SEEK_END)
                stream.seek(max(0, size - tarfile.BLOCKSIZE))
                if size % tarfile.BLOCKSIZE or any(stream.read()) or not size:
                    raise DataError(f"{path}: cut short after {size} bytes; {ADVICE}")

    def _checked_names(self) -> list[str]:
        found: dict[str, set[str]] = {"cuts": set(), "features": set()}
        for file in self._files:
            if match := re.fullmatch(r"(cuts|features)\.(\d+)\.(?:jsonl\.gz|tar)", file):
                found[match[1]].add(match[2])
        names = sorted(found["cuts"] | found["features"], key=int)
        if not names:
            raise DataError(
                f"{self.address}: no cuts.<number>.jsonl.gz and features.<number>.tar in it "
                "(train.shar); python -m lmu_asr.data.shar.export writes them"
            )
        wanted = [str(n).zfill(len(names[0])) for n in range(int(names[0]), int(names[-1]) + 1)]
        for name in wanted:
            for kind, file in (("cuts", cuts_name(name)), ("features", archive_name(name))):
                if name not in found[kind]:
                    raise DataError(
                        f"{self.address}: shard {name} of {names[0]} to {names[-1]} is not whole: "
                        f"no {file}; {ADVICE}"
                    )
        return names


def cuts_name(name: str) -> str:
    """Return the name of a shard's list of cuts."""
    return f"cuts.{name}.jsonl.gz"


def archive_name(name: str) -> str:
    """Return the name of a shard's archive."""
    return f"features.{name}.tar"


def _local_files(folder: Path) -> dict[str, RemoteFile]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such directory (train.shar)")
    files = {path.name: path.stat() for path in folder.iterdir() if path.is_file()}
    return {name: RemoteFile(s.st_size, s.st_mtime_ns) for name, s in files.items()}


Marks = dict[str, tuple[str, str]]  # by number: what the shard was made from, its archive's CRC-32


def local_marks(split: Path) -> Marks:
    """Return the marks of finished shards; those of earlier versions have no checksum."""
    split = split.absolute()  # "." has a name, too
    folder = split.parent / KEYS / split.name
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {
        p.name: p.read_text(encoding="utf-8", errors="replace") for p in files if p.name.isdecimal()
    }
    return {name: _mark(text) for name, text in found.items()}


def remote_marks(split: str) -> Marks:
    """Return the marks of a bucket's shards, which are names of objects; none where they are hidden."""
    parent, _, name = split.rpartition("/")
    try:
        found = RemoteFolder(f"{parent}/{KEYS}/{name}").files()
    except RemoteError:
        return {}
    return {number: _mark(rest) for number, _, rest in (name.partition("-") for name in found)}


def mark(key: str, archive: Path) -> str:
    """Return the mark of a finished shard."""
    return f"{key}-{file_crc(archive):08x}"


def _mark(text: str) -> tuple[str, str]:
    key, _, crc = text.strip().partition("-")
    return key, crc if re.fullmatch("[0-9a-f]{8}", crc) else ""


def members_of(path: Path, ids: Sequence[str], where: str) -> list[Member]:
    """Return where the features of each cut lie in an archive.

    Args:
        path: the archive on this machine.
        ids: of the cuts that the shard's list has, in order.
        where: the archive's address, for messages.

    Raises:
        DataError: the archive is cut short or broken, or holds other utterances than ``ids``.
    """
    found = list(_data_members(path, where))
    # a wrong name tells more than their number, which comes after
    for (name, _), wanted in zip(found, ids, strict=False):
        if name != wanted:
            raise DataError(f"{where}: '{name}' where its list has '{wanted}'; {ADVICE}")
    if len(found) != len(ids):
        raise DataError(
            f"{where}: {len(found)} utterances, its list has {len(ids)}: one of the two is of "
            f"another export or cut short; {ADVICE}"
        )
    return [member for _, member in found]


def _data_members(path: Path, where: str) -> Iterator[tuple[str, Member]]:
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                stem, dot, suffix = info.name.rpartition(".")
                if suffix == "nodata":
                    raise DataError(f"{where}: '{stem}' has no features; {ADVICE}")
                if dot + suffix in DECODERS:
                    yield stem, (info.offset_data, info.size, dot + suffix)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{where}: cut short or damaged ({error}); {ADVICE}") from error


def member_key(member: Member) -> str:
    """Return how an utterance's storage names a member."""
    return ",".join(map(str, member))


def read_member(path: str, key: str) -> NDArray[np.float32]:
    """Read the features (T, F) that ``key`` names in an archive.

    Raises:
        OSError, ValueError: the archive is gone or cut short, or the member is damaged.
    """
    offset, size, suffix = key.split(",")
    with open(path, "rb", buffering=0) as stream:
        stream.seek(int(offset))
        data = stream.read(int(size))
    if len(data) != int(size):
        raise ValueError(f"{len(data)} of {size} bytes")
    return np.asarray(DECODERS[suffix](data), dtype=np.float32)
