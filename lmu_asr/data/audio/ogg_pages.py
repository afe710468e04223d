"""Pages of an Ogg file (RFC 3533): a decoder leaves out damaged ones in silence, and reads on."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lmu_asr.errors import DataError

MAGIC = b"OggS"
HEADER = struct.Struct(
    "<4sBBqIIIB"
)  # magic, version, flags, granule, stream, number, sum, segments
BEGIN_OF_STREAM, END_OF_STREAM = 0x02, 0x04
BLOCK = 1 << 20
# The sum of Ogg is CRC-32 with the bits of each byte in the other order: that of zlib, of bytes reversed.
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
NO_SUM = bytes(4)


def page_sum(page: bytes) -> int:
    """CRC-32 of a page whose field for the sum is zero: polynomial 0x04C11DB7, from 0, as it is."""
    found = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(found.to_bytes(4, "little").translate(REVERSED), "big")


@dataclass
class _State:
    """Pages that were read: how many, and the last number of each logical stream."""

    count: int
    numbers: dict[int, int]
    is_open: set[int]
    has_ended: bool = False


def refuse_damaged_ogg(stream: IO[bytes], path: str | Path, reads_chains: bool) -> None:
    """Read a whole Ogg file and check the sum of each page, their order, and that streams end.

    Args:
        stream: the file.
        path: its name, for messages.
        reads_chains: whether the decoder reads streams that follow one another; else they are refused.

    Raises:
        DataError: a page is damaged, missing or not whole, with its number and its place in bytes.
    """
    stream.seek(0)
    data, place = b"", 0  # place: where data begins in the file
    at, state = 0, _State(0, {}, set())
    while True:
        # the largest page that there can be, so that the next one lies whole in memory
        if len(data) - at < HEADER.size + 255 + 255 * 255:
            place, data, at = place + at, data[at:] + stream.read(BLOCK), 0
        if at == len(data):
            break
        where = f"page {state.count} at byte {place + at}"
        if data[at : at + 4] != MAGIC:
            rest = data[at:] + stream.read(BLOCK)
            if not state.is_open and MAGIC not in rest:
                return  # what taggers put behind the last page
            raise DataError(f"{path}: cut short or damaged: no Ogg {where}")
        length = _checked_page(data, at, path, where, state, reads_chains)
        at, state.count = at + length, state.count + 1
    if state.is_open:
        raise DataError(
            f"{path}: cut short: its last page is missing or not whole: {state.count} pages, "
            f"{place + at} bytes"
        )


def _checked_page(
    data: bytes, at: int, path: str | Path, where: str, state: _State, reads_chains: bool
) -> int:
    """Return the length of the page at a place in ``data``, when it is whole and the next one."""
    head = data[at : at + HEADER.size]
    if len(head) < HEADER.size:
        raise DataError(f"{path}: cut short: {where}: its last page is missing or not whole")
    _, _, flags, _, serial, number, wanted, segments = HEADER.unpack(head)
    sizes = data[at + HEADER.size : at + HEADER.size + segments]
    length = HEADER.size + segments + sum(sizes)
    if len(sizes) < segments or at + length > len(data):
        raise DataError(f"{path}: cut short: {where}: its last page is missing or not whole")
    body = data[at + 26 : at + length]
    found = page_sum(b"".join((head[:22], NO_SUM, body)))
    if found != wanted:
        raise DataError(
            f"{path}: cut short or damaged: {where}: checksum {found:08x}, the page says {wanted:08x}"
        )
    if flags & BEGIN_OF_STREAM:
        if state.has_ended and not reads_chains:
            raise DataError(
                f"{path}: not readable as audio: a second Ogg stream begins with {where}, and its "
                "decoder would not go on there: join files with ffmpeg instead of cat"
            )
    elif number != state.numbers.get(serial, number - 1) + 1:
        raise DataError(
            f"{path}: cut short or damaged: {where}: number {number} follows {state.numbers[serial]}"
        )
    state.numbers[serial] = number
    if flags & END_OF_STREAM:
        state.is_open.discard(serial)
        state.has_ended = True
    else:
        state.is_open.add(serial)
    return length
