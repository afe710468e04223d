"""Bytes that a header promises: libsndfile passes over in silence that a file ends early.

Known are WAV, RF64, AIFF, AIFF-C, 8SVX, AU, CAF, W64, NIST SPHERE, Matroska, WebM and AVI, whose headers
are exact for every codec.
A size that the writer did not know, as into a pipe, promises nothing.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO

from lmu_asr.data.audio.ogg_pages import refuse_damaged_ogg
from lmu_asr.errors import DataError

# Who writes to a pipe cannot know the size: 0, or close to 2^31 or 2^32 (SoX: 0x7FFFF000 rounded
# down to whole samples, arecord: 0x80000000, ffmpeg: 0xFFFFFFFF, all with or without the bytes of the header).
STREAMED_SIZES = ((0, 0), (0x7FFE0000, 0x80001000), (0xFFFE0000, 0xFFFFFFFF))
LARGEST_SIZE = 1 << 62  # of 64 bits; what is larger, or negative, is no size
MOST_CHUNKS = 1000
FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM")
MAGIC_BYTES = 12  # from which files of one format are told to begin alike
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska, WebM
W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
SPHERE_MAGIC, MOST_HEADER_BYTES = b"NIST_1A\n", 1 << 20


def refuse_cut_short(path: str | Path, reads_chains: bool = False) -> None:
    """Compare a file with what its header promises; of Ogg, check every page.

    Args:
        path: the file.
        reads_chains: whether its decoder reads Ogg streams that follow one another.

    Raises:
        DataError: the file is shorter, or a second file follows in it, which no decoder would read.
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        start = stream.read(16)
        if start[:4] == b"OggS":
            refuse_damaged_ogg(stream, path, reads_chains)
            return
        size = os.fstat(stream.fileno()).st_size
        wanted = _promised(stream, start)
        if wanted > size:
            raise DataError(f"{path}: cut short: {size} bytes, its header says {wanted}")
        # of Matroska, FFmpeg reads all that cat joined
        if wanted and wanted + MAGIC_BYTES < size and start[:4] != EBML:
            _refuse_second(stream, path, start, wanted)
            _refuse_samples_behind(stream, path, start, wanted, size)


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


def _promised(stream: IO[bytes], start: bytes) -> int:
    """Bytes that a file must have by its header; 0: not known."""
    magic, kind = start[:4], start[8:12]
    if magic in FORMS[:4] and kind == b"WAVE":
        return _chunks_size(stream, ">" if magic == b"RIFX" else "<", start, b"data")
    if magic == b"FORM":
        return _chunks_size(stream, ">", start, b"BODY" if kind in (b"8SVX", b"16SV") else b"SSND")
    if magic == b"RIFF" and kind == b"AVI ":
        whole = struct.unpack("<I", start[4:8])[0]
        return 0 if _is_streamed(whole) else 8 + int(whole)
    if magic == EBML:
        return _matroska_size(stream)
    if magic in (b".snd", b"dns."):
        begin, size = struct.unpack(
            ">II" if magic == b".snd" else "<II", start[4:12].ljust(8, b"\0")
        )
        return begin + size if size != 0xFFFFFFFF else 0
    if magic == b"caff":
        return _caf_size(stream)
    if start == W64_RIFF:
        return _w64_size(stream)
    return _sphere_size(stream, start) if start[:8] == SPHERE_MAGIC else 0


def _refuse_second(stream: IO[bytes], path: str | Path, first: bytes, end: int) -> None:
    """Refuse ``cat a.wav b.wav``: the same magic where the header says that the file ends."""
    is_form = first[:4] in FORMS  # after their magic comes a size
    parts = (slice(0, 4), slice(8, 12)) if is_form else (slice(0, 4),)
    for place in (end, end + end % 2, _form_size(first) if is_form else end):
        stream.seek(place)
        after = stream.read(MAGIC_BYTES)
        if len(after) == MAGIC_BYTES and all(first[part] == after[part] for part in parts):
            raise DataError(
                f"{path}: not readable as audio: a second file begins at byte {place}, and the decoder "
                "would not go on there: join files with sox or ffmpeg instead of cat"
            )


def _refuse_samples_behind(
    stream: IO[bytes], path: str | Path, first: bytes, end: int, size: int
) -> None:
    """Refuse a chunk of samples that ends too early: no other follows, but the whole goes on."""
    if first[:4] not in FORMS or _form_size(first) != size:
        return
    stream.seek(end)
    after = stream.read(MAGIC_BYTES)
    # some writers leave out the byte that makes a size even, some fill a block with zeros
    if after.strip(b"\0") and not _is_name(after[:4]) and not _is_name(after[end % 2 :][:4]):
        raise DataError(
            f"{path}: cut short or damaged: its samples end at byte {end} by their chunk, the whole at "
            f"byte {size}, and no chunk follows"
        )


def _form_size(first: bytes) -> int:
    order = "<I" if first[:4] in (b"RIFF", b"RF64", b"BW64") else ">I"
    return 8 + int(struct.unpack(order, first[4:8])[0])


def _is_name(text: bytes) -> bool:
    return text.isascii() and text.decode().isprintable()


def _chunks_size(stream: IO[bytes], order: str, start: bytes, wanted: bytes) -> int:
    """Bytes that a file of chunks must have, by the chunk of its samples, else by the whole; or 0."""
    whole = struct.unpack(f"{order}I", start[4:8])[0]
    is_64, data_64 = False, 0
    stream.seek(12)
    for _ in range(MOST_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            return 0
        name, size = struct.unpack(f"{order}4sI", head)
        begin = stream.tell()
        if name == wanted:
            if is_64 and size == 0xFFFFFFFF:
                return begin + data_64 if data_64 < LARGEST_SIZE else 0
            if not _is_streamed(size):
                return begin + int(size)
            return 0 if is_64 or _is_streamed(whole) else 8 + int(whole)
        if name == b"ds64":
            is_64, data_64 = True, struct.unpack("<8xQ", stream.read(16).ljust(16, b"\0"))[0]
        # chunks begin at even bytes; the byte that fills up is not in the size
        stream.seek(begin + size + size % 2)
    return 0


def _is_streamed(size: int) -> bool:
    return any(low <= size <= high for low, high in STREAMED_SIZES)


def _caf_size(stream: IO[bytes]) -> int:
    """Bytes up to the end of the last chunk of a CAF file; 0: its data chunk goes to the end."""
    end, has_data = 8, False
    for _ in range(MOST_CHUNKS):
        stream.seek(end)
        head = stream.read(12)
        if len(head) < 12:
            break
        name, size = struct.unpack(">4sq", head)
        is_chunk = name.isascii() and 0 <= size < LARGEST_SIZE
        if has_data and (not is_chunk or name == b"caff"):
            break  # rubbish behind the data, or a second file
        if not is_chunk:
            return 0
        end, has_data = end + 12 + size, has_data or name == b"data"
    return end if has_data else 0


def _w64_size(stream: IO[bytes]) -> int:
    """Bytes up to the end of the data chunk of a W64 file, whose chunks begin at multiples of 8."""
    place = 40  # after the identifier, the size and the identifier "wave"
    for _ in range(MOST_CHUNKS):
        stream.seek(place)
        head = stream.read(24)
        if len(head) < 24:
            return 0
        size = struct.unpack("<16xQ", head)[0]
        if not 24 < size < LARGEST_SIZE:
            return 0
        if head[:4] == b"data":
            return place + int(size)
        place += size + -size % 8
    return 0


def _matroska_size(stream: IO[bytes]) -> int:
    """Bytes up to the end of the first segment of Matroska, 0 where it was written to a pipe."""
    stream.seek(len(EBML))
    size = _matroska_number(stream)
    if size is None:
        return 0
    stream.seek(size, os.SEEK_CUR)
    if stream.read(len(SEGMENT)) != SEGMENT or (size := _matroska_number(stream)) is None:
        return 0
    return stream.tell() + size


def _matroska_number(stream: IO[bytes]) -> int | None:
    """A number of as many bytes as its first one says; None where all bits are set: not known."""
    first = stream.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + stream.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value


def _sphere_size(stream: IO[bytes], start: bytes) -> int:
    """Bytes of a NIST SPHERE file of samples that no program has compressed (shorten, wavpack)."""
    number = start[8:].strip()
    begin = int(number) if number.isdigit() else 0
    stream.seek(len(start))
    fields: dict[str, str] = {}
    for line in stream.read(min(begin, MOST_HEADER_BYTES)).decode("latin-1").splitlines():
        name, _, value = line.partition(" ")
        fields.setdefault(name, value.partition(" ")[2].strip())
    if "embedded" in fields.get("sample_coding", ""):
        return 0
    counts = [fields.get("sample_count", "0"), fields.get("sample_n_bytes", "0")]
    counts.append(fields.get("channel_count", "1"))
    if not all(count.isdecimal() and len(count) < 18 for count in counts):
        return 0
    samples, width, channels = map(int, counts)
    return begin + samples * width * channels if samples * width * channels else 0
