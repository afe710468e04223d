"""Feature archives of stage 1 and the checksums beside them: what is read is what was written.

An archive ``<name>.lca`` is of Lhotse's lilcom_chunky storage. ``<name>.crc`` holds the CRC-32 of the
bytes of each utterance, so that a reader checks what it reads and nothing else.

Shapes: T frames, F mel bins.
"""

from __future__ import annotations

import functools
import itertools
import logging
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import lilcom
import numpy as np
from lhotse.features.io import LilcomChunkyWriter
from numpy.typing import NDArray

from lmu_asr.errors import DataError
from lmu_asr.files import atomic_write_bytes

LILCOM_CHUNKY = LilcomChunkyWriter.name
MAGIC = b"LMUSUMS1"
ROW = np.dtype([("start", "<u8"), ("crc", "<u4")])
BLOCK = 1 << 20
DAMAGED = "stage 1 with --force makes the damaged shard again, and keeps the others"


def sums_path(archive: Path) -> Path:
    """Return where the checksums of an archive lie."""
    return archive.with_suffix(".crc")


def write_sums(archive: Path, keys: Iterable[str]) -> None:
    """Write the checksums of a whole archive atomically; those that stand and are right stay.

    Args:
        archive: the file.
        keys: storage keys of its utterances, in their order.
    """
    with open(archive, "rb") as stream:
        rows = np.array([(_offsets(key)[0], _crc(stream, key)) for key in keys], dtype=ROW)
    table = rows.tobytes()
    content = MAGIC + zlib.crc32(table).to_bytes(4, "little") + table
    path = sums_path(archive)
    if not path.is_file() or path.read_bytes() != content:
        atomic_write_bytes(path, content)


def read_features(path: str, key: str) -> NDArray[np.float32]:
    """Read the features (T, F) that a storage key names in an archive, and check their bytes.

    An archive of an earlier version has no checksums; it is read as it is.

    Raises:
        OSError, ValueError: the archive is gone or cut short.
        DataError: the bytes are not those that were written, or the checksums are damaged.
    """
    offsets = _offsets(key)
    with open(path, "rb", buffering=0) as stream:
        stream.seek(offsets[0])
        data = stream.read(offsets[-1] - offsets[0])
    if len(data) != offsets[-1] - offsets[0]:
        raise ValueError(f"{len(data)} of {offsets[-1] - offsets[0]} bytes")
    _check(path, offsets[0], data)
    places = [offset - offsets[0] for offset in offsets]
    chunks = [lilcom.decompress(data[a:b]) for a, b in itertools.pairwise(places)]
    return np.concatenate(chunks) if chunks else np.zeros((0, 0), dtype=np.float32)


def file_crc(path: Path) -> int:
    """CRC-32 of a whole file."""
    crc = 0
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


@functools.cache
def say_unchecked(place: str) -> None:
    """Say once for each place that its features have no checksums."""
    logging.warning(
        "%s: features of an earlier version, without checksums: damage on the disk would not be seen; "
        "stage 1 with --force adds them",
        place,
    )


def _offsets(key: str) -> list[int]:
    """Where each chunk of an utterance begins, and where the last one ends."""
    # Lhotse's key is the first chunk's offset, then the size of each chunk
    return list(itertools.accumulate(map(int, key.split(","))))


def _crc(stream: BinaryIO, key: str) -> int:
    offsets = _offsets(key)
    stream.seek(offsets[0])
    return zlib.crc32(stream.read(offsets[-1] - offsets[0]))


def _check(path: str, start: int, data: bytes) -> None:
    sums = sums_path(Path(path))
    try:
        state = sums.stat()
    except FileNotFoundError:
        return
    starts, crcs = _table(str(sums), state.st_size, state.st_mtime_ns)
    # write_sums keeps the order of the archive, so that starts ascend
    place = int(np.searchsorted(starts, start))
    if place == len(starts) or starts[place] != start:
        raise DataError(f"no checksum for byte {start} in {sums.name}: it is of another archive")
    if (found := zlib.crc32(data)) != crcs[place]:
        raise DataError(f"damaged: checksum {found:08x}, stage 1 left {crcs[place]:08x}")


@functools.lru_cache(maxsize=1024)  # of a large corpus some hundred bytes to 10 KB each
def _table(path: str, size: int, changed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    content = Path(path).read_bytes()
    table = content[len(MAGIC) + 4 :]
    wanted = int.from_bytes(content[len(MAGIC) : len(MAGIC) + 4], "little")
    if content[: len(MAGIC)] != MAGIC or len(table) % ROW.itemsize or zlib.crc32(table) != wanted:
        raise DataError(f"the checksums themselves are damaged ({path})")
    # a field of rows is strided, which searchsorted would copy at every look-up
    rows = np.frombuffer(table, dtype=ROW)
    return np.ascontiguousarray(rows["start"]), np.ascontiguousarray(rows["crc"])
