"""MP3 as libmpg123 is to read it: to its last frame, whatever a header says or the size suggests."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmu_asr.errors import DataError

TAGS = (b"Xing", b"Info", b"VBRI")  # in the first frame: how many frames and bytes there are
HEAD, WINDOW = 256, 1 << 16  # bytes of a frame that hold its tag; where a second part begins
CHAINED = 3  # frames in a row that are no chance; a tag may not count its own frame
ID3V1_BYTES = 128
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


class Unsized(io.BufferedReader):
    """A file that hides its size from libmpg123, which then counts the frames of an MP3.

    Where no Xing, Info or VBRI header gives their number, it would divide the size of the file by
    that of the first frame: wrong, and too small where the bit rate varies. libsndfile asks for
    the size first, and is told.
    """

    _asked = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to the start where the second question is for the end."""
        if (offset, whence) == (0, os.SEEK_END):
            self._asked += 1
            if self._asked == 2:
                return super().seek(0)
        return super().seek(offset, whence)


class Untagged(Unsized):
    """A file that hides the tag of its first part too, which knows nothing of the others."""

    tag_at = 0

    def readinto(self, buffer: Any) -> int:
        """Read, with zeros in place of the tag's name."""
        at = self.tell()
        count = super().readinto(buffer)
        for place in range(max(at, self.tag_at), min(at + count, self.tag_at + 4)):
            buffer[place - at : place - at + 1] = b"\0"
        return count


@dataclass(frozen=True)
class _Frame:
    """Header of an MPEG audio frame of layer III."""

    rate: int
    channels: int
    size: int


def tag_of_first_part(path: str | Path) -> int:
    """Where the tag of the first part is, of several that were joined by ``cat``; 0: one part.

    Raises:
        DataError: the second part has another rate or other channels.
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = _id3_bytes(stream.read(10))
        stream.seek(start)
        head = stream.read(HEAD)
        first = _frame(head)
        tag = min((at for name in TAGS if (at := head.find(name)) > 0), default=0)
        end = start + _tagged_bytes(head[tag:]) if tag and first else size
        if first is None or not start < end < size:
            return 0
        stream.seek(end)
        data = stream.read(WINDOW)
        skipped = ID3V1_BYTES if data[:3] == b"TAG" else 0
        skipped += _id3_bytes(data[skipped : skipped + 10])
        stream.seek(end + skipped)
        second = _first_frame(stream.read(WINDOW))
    if second is None:
        return 0
    if (first.rate, first.channels) != (second.rate, second.channels):
        raise DataError(
            f"{path}: not readable as audio: {first.channels} channels at {first.rate} Hz become "
            f"{second.channels} at {second.rate} Hz after byte {end}; convert its parts first"
        )
    return start + tag


def _tagged_bytes(tag: bytes) -> int:
    """Bytes of all frames by a tag, 0 where it does not say."""
    if tag[:4] == b"VBRI":
        return int.from_bytes(tag[10:14], "big")
    flags = int.from_bytes(tag[4:8], "big")
    place = 12 if flags & 1 else 8  # after the number of frames
    return int.from_bytes(tag[place : place + 4], "big") if flags & 2 else 0


def _id3_bytes(head: bytes) -> int:
    """Length of an ID3v2 tag, 0 where there is none."""
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    a, b, c, d = head[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)


def _first_frame(data: bytes) -> _Frame | None:
    """The first of some frames that follow one another, or None."""
    at = data.find(b"\xff")
    while at >= 0:
        frames: list[_Frame] = []
        place = at
        while len(frames) < CHAINED and (frame := _frame(data[place : place + 4])):
            frames.append(frame)
            place += frame.size
        if len(frames) == CHAINED and len({frame.rate for frame in frames}) == 1:
            return frames[0]
        at = data.find(b"\xff", at + 1)
    return None


def _frame(head: bytes) -> _Frame | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # layer III
        return None
    version, kbit, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or kbit in (0, 15) or rate == 3:
        return None
    hertz = RATES[version][rate]
    kbits = (KBITS_1 if version == 3 else KBITS_2)[kbit]
    size = (144000 if version == 3 else 72000) * kbits // hertz + (head[2] >> 1 & 1)
    return _Frame(hertz, 1 if head[3] >> 6 == 3 else 2, size)
