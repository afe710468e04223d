"""Archives unpacked whole or not at all: tar (plain, gzip, bzip2, xz) and zip.

A stream is read to its very end, so that the sums which gzip, bzip2, xz and zip carry are verified
before a file appears. What an archive unpacks to is limited by its own size.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import logging
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lmu_asr.errors import DataError
from lmu_asr.progress import progress

BLOCK = 1 << 20
# Speech packs to a half and text to a tenth; a bomb is a thousand times its archive.
MOST_GROWTH, GROWTH_FLOOR = 100, 64 << 20  # times the archive's size, and bytes that always may be
LONGEST_HEADER = 1 << 20  # bytes of an extended tar header, which is read into memory
DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    struct.error, ValueError, NotImplementedError, RuntimeError, IndexError, OverflowError,
)  # fmt: skip
OPENERS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)
# what tarfile takes for the end of an archive, in part without saying so in its documentation
DAMAGED_HEADER: Any = (
    vars(tarfile)["InvalidHeaderError"],
    vars(tarfile)["TruncatedHeaderError"],
)
NO_HEADER: Any = vars(tarfile)["EmptyHeaderError"]


class HostileError(ValueError):
    """A member that lies outside, or an archive that unpacks to far more than it should."""


def unpack(path: Path, target: Path) -> None:
    """Unpack a tar or zip archive; every file appears in ``target`` only when all are unpacked.

    Links, devices and directories are left out (in a zip a link is a file that holds its target). Of
    members of one name the last counts.

    Raises:
        DataError: the archive is damaged, encrypted or hostile; nothing is left in ``target``.
        OSError: the disk is full or cannot be written; nothing is left either.
    """
    staging = target / f".unpacking-{path.name}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        _unpack_into(path, staging)
        _move(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack_into(path: Path, staging: Path) -> None:
    limit = MOST_GROWTH * path.stat().st_size + GROWTH_FLOOR
    try:
        with open(path, "rb") as raw:
            allowance = _Allowance(limit)
            members = _zip_members if zipfile.is_zipfile(raw) else _tar_members
            raw.seek(0)
            found = members(raw, allowance)
            for name, stream in progress(found, f"unpacking {path.name}", unit="file"):
                _write(staging, name, stream, allowance)
    except HostileError as error:
        raise DataError(f"{path}: {error}: not unpacked") from error
    except DAMAGED as error:
        raise _damaged(path, error) from error
    except OSError as error:
        # bzip2 has no number for damage; a damaged offset is an invalid argument
        if error.errno not in (None, errno.EINVAL):
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path}: damaged archive ({error}); delete it and run again")


class _Allowance:
    """Bytes that may still be unpacked."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise HostileError(
                f"unpacks to more than {self.limit >> 20} MiB, {MOST_GROWTH} times its size and "
                f"{GROWTH_FLOOR >> 20} MiB"
            )


class _Limited(io.RawIOBase):
    """A decompressed stream that may not exceed an allowance."""

    def __init__(self, stream: IO[bytes], allowance: _Allowance) -> None:
        self._stream, self._allowance = stream, allowance

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, BLOCK) if size >= 0 else BLOCK)
        self._allowance.take(len(data))
        return data


def _write(staging: Path, name: str, stream: IO[bytes], allowance: _Allowance) -> None:
    place = staging / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(place, "wb") as out:
            shutil.copyfileobj(stream, out, BLOCK)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise HostileError(f"member '{name}' is a file and a directory") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise HostileError(f"member '{name}' cannot be a file here: {error.strerror}") from error


def _move(staging: Path, target: Path) -> None:
    for file in sorted(p for p in staging.rglob("*") if p.is_file()):
        place = target / file.relative_to(staging)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)


def _zip_members(raw: IO[bytes], allowance: _Allowance) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield names and contents of the files of a zip archive; their sums are verified as they are read."""
    with zipfile.ZipFile(raw) as archive:
        infos = archive.infolist()
        _check_count(raw, len(infos))
        declared = sum(info.file_size for info in infos)
        allowance.take(declared)  # zipfile gives no byte more than is declared
        for info in infos:
            if info.flag_bits & 1:
                raise HostileError(f"member '{info.filename}' is encrypted")
            with archive.open(
                info
            ) as stream:  # compares the two places that name it, directories too
                if not info.is_dir():
                    yield _safe(info.filename), stream


def _check_count(raw: IO[bytes], found: int) -> None:
    """Compare the members found with the number at the archive's end: a damaged length hides some."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(max(0, size - 22 - 0xFFFF))  # the record has 22 bytes and a comment of 64 KiB at most
    tail = raw.read()
    end = tail.rfind(b"PK\x05\x06")
    count = int.from_bytes(tail[end + 10 : end + 12], "little")
    if end >= 0 and count not in (found, 0xFFFF):  # that many are counted elsewhere (zip64)
        raise zipfile.BadZipFile(f"{found} members found of {count}")


def _tar_members(raw: IO[bytes], allowance: _Allowance) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield names and contents of the plain files of a tar archive, then read what is left of it."""
    start = raw.read(6)
    raw.seek(0)
    opener = next((opener for magic, opener in OPENERS if start.startswith(magic)), None)
    stream = opener(raw, "rb") if opener else raw
    limited: Any = _Limited(stream, allowance)
    header = _Header if opener else _PlainHeader
    seen: set[str] = set()
    with tarfile.open(fileobj=limited, mode="r|", tarinfo=header) as tar:
        for member in tar:
            if member.issparse():
                raise HostileError(f"member '{member.name}' is a sparse file")
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                name = _safe(member.name)
                if name in seen:
                    logging.warning("member '%s' is there twice: the last counts", name)
                seen.add(name)
                yield name, content
            # tarfile keeps every header that it has read: memory for millions of files
            tar.members = []  # type: ignore[attr-defined]
    while limited.read(BLOCK):  # to the end, where the stream's sum is
        pass


class _Header(tarfile.TarInfo):
    """A header of a tar archive; tarfile would take a damaged one for the end of the archive."""

    needs_end = False

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        """Read one block of 512 bytes.

        Raises:
            ReadError: damaged, cut short, or larger than headers are.
        """
        try:
            member = super().frombuf(buf, encoding, errors)
        except DAMAGED_HEADER as error:
            raise tarfile.ReadError(f"header: {error}") from error
        except NO_HEADER as error:
            if cls.needs_end:
                raise tarfile.ReadError("ends before its end-of-archive mark") from error
            raise
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        long = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if member.size < 0 or (member.type in (*extended, *long) and member.size > LONGEST_HEADER):
            raise tarfile.ReadError(f"header of {member.size} bytes")
        return member


class _PlainHeader(_Header):
    """Headers of a tar archive that is not compressed: nothing else tells that it is whole."""

    needs_end = True


def _safe(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
        raise HostileError(f"member '{name}' lies outside")
    return str(PurePosixPath(*parts))
