"""What the headers of WAV and Ogg promise: libsndfile passes over in silence that a file ends early."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO

from lmu_asr.errors import DataError

OGG_END_OF_STREAM, OGG_HEADER_BYTES = 0x04, 27
# Who writes to a pipe cannot know the size: 0, or close to 2^31 or 2^32 (SoX: 0x7FFFF000 rounded
# down to whole samples, arecord: 0x80000000, ffmpeg: 0xFFFFFFFF, all with or without the bytes of the header).
STREAMED_SIZES = ((0, 0), (0x7FFE0000, 0x80001000), (0xFFFE0000, 0xFFFFFFFF))
LARGEST_SIZE = 1 << 62  # of RF64; what is larger is no size
MOST_CHUNKS = 1000


def refuse_cut_short(path: str | Path) -> None:
    """Compare a WAV, RF64 or Ogg file with what its header, or its last page, promises.

    Raises:
        DataError: the file is shorter.
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        start = stream.read(12)
        size = os.fstat(stream.fileno()).st_size
        if start[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and start[8:] == b"WAVE":
            wanted = _wav_size(stream, ">" if start[:4] == b"RIFX" else "<", start[4:8])
            if wanted > size:
                raise DataError(f"{path}: cut short: {size} bytes, its header says {wanted}")
        elif start[:4] == b"OggS":
            stream.seek(max(0, size - 65536))
            tail = stream.read()
            if not _is_last_page(tail[max(0, tail.rfind(b"OggS")) :]):
                raise DataError(f"{path}: cut short: its last page is missing or not whole")


def is_streamed_rf64(path: str | Path) -> bool:
    """Whether a file is RF64 of a pipe: its sizes, 64 bits each, are 0 or not sizes at all.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        head = stream.read(36)
        small = os.fstat(stream.fileno()).st_size < 0xFFFFFFFF
    if head[:4] not in (b"RF64", b"BW64") or head[12:16] != b"ds64" or len(head) < 36:
        return False
    data_size = struct.unpack("<Q", head[28:36])[0]
    return small and not 0 < data_size < LARGEST_SIZE


def _wav_size(stream: IO[bytes], order: str, riff_size: bytes) -> int:
    """Bytes that a WAV file must have, by its data chunk, else by its RIFF chunk; 0: not known."""
    whole = struct.unpack(f"{order}I", riff_size)[0]
    is_64, data_64 = False, 0
    for _ in range(MOST_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            return 0
        name, size = struct.unpack(f"{order}4sI", head)
        begin = stream.tell()
        if name == b"data":
            if is_64 and size == 0xFFFFFFFF:
                return begin + data_64 if data_64 < LARGEST_SIZE else 0
            if not _is_streamed(size):
                return begin + int(size)
            return 0 if is_64 or _is_streamed(whole) else 8 + int(whole)
        if name == b"ds64":
            is_64, data_64 = True, struct.unpack("<8xQ", stream.read(16).ljust(16, b"\0"))[0]
        stream.seek(begin + size + size % 2)
    return 0


def _is_streamed(size: int) -> bool:
    return any(low <= size <= high for low, high in STREAMED_SIZES)


def _is_last_page(page: bytes) -> bool:
    """Whether an Ogg page (RFC 3533) is whole and says that the stream ends with it."""
    if len(page) < OGG_HEADER_BYTES or not page[5] & OGG_END_OF_STREAM:
        return False
    segments = page[OGG_HEADER_BYTES : OGG_HEADER_BYTES + page[26]]
    return len(segments) == page[26] and len(page) >= OGG_HEADER_BYTES + page[26] + sum(segments)
