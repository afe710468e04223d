"""Archives that are damaged, hostile or odd: refused with nothing left, or unpacked whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmu_asr.corpora import archives
from lmu_asr.corpora.archives import unpack
from lmu_asr.errors import DataError
from tests.data.speech import tree_bytes

CONTENT = {f"d/{n}.txt": random.Random(n).randbytes(700) for n in range(6)}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


def tar(content: dict[str, bytes], **changes: Any) -> bytes:
    """A tar archive; ``changes`` are attributes of every member."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def zipped(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return stream.getvalue()


def refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    """The archive is refused, and nothing of it is left."""
    path, target = tmp_path / name, tmp_path / "t"
    path.write_bytes(data)
    target.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        unpack(path, target)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("kind", [*PACKERS, "zip"])
def test_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(zipped(CONTENT) if kind == "zip" else PACKERS[kind](tar(CONTENT)))
    unpack(path, tmp_path / "t")
    assert tree_bytes(tmp_path / "t") == CONTENT


@pytest.mark.parametrize("kind", [*PACKERS, "zip"])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, kind: str) -> None:
    whole = zipped(CONTENT) if kind == "zip" else PACKERS[kind](tar(CONTENT))
    path, same = tmp_path / f"x.{kind}", 0
    for number in range(60):
        rng = random.Random(number)
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        target = tmp_path / str(number)
        try:
            unpack(path, target)
        except DataError:
            assert list(target.iterdir()) == []
        else:
            assert tree_bytes(target) == CONTENT
            same += 1
    assert same < 15  # a time, a comment: of each member in a zip


def test_sum_at_the_end_is_read(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar(CONTENT)))
    data[-8] ^= 1  # of the CRC32
    refused(tmp_path, "x.tar.gz", bytes(data), "damaged archive.*delete it")
    refused(tmp_path, "y.tar.gz", gzip.compress(tar(CONTENT))[:-3], "damaged archive")


def test_damaged_header_is_not_the_end_of_a_plain_archive(tmp_path: Path) -> None:
    data = bytearray(tar(CONTENT))
    header = data.index(b"d/3.txt")
    data[header] ^= 1
    refused(tmp_path, "x.tar", bytes(data), "damaged archive.*header")
    refused(tmp_path, "y.tar", tar(CONTENT)[: 512 * 6], "damaged archive.*end-of-archive mark")


@pytest.mark.parametrize("name", ["../a", "/a", "d/../../a", "d/.."])
def test_members_outside(tmp_path: Path, name: str) -> None:
    refused(tmp_path, "x.tar", tar({**CONTENT, name: b"x"}), "lies outside")
    refused(tmp_path, "x.zip", zipped({**CONTENT, name: b"x"}), "lies outside")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_members_that_are_no_files_are_left_out(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(tar({"odd": b""}, type=kind, linkname="/etc/passwd"))
    unpack(tmp_path / "x.tar", tmp_path / "t")
    assert list((tmp_path / "t").iterdir()) == []


def test_link_in_a_zip_is_a_file(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a", "x")
    unpack(tmp_path / "x.zip", tmp_path / "t")
    assert not (tmp_path / "t" / "link").is_symlink()
    assert tree_bytes(tmp_path / "t") == {"a": b"x", "link": b"/etc/passwd"}


def test_file_that_becomes_a_directory_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped({"d/foo": b""}))
    data[data.rindex(b"foo") + 2] ^= 0x40  # "d/fo/", in the directory of the archive
    refused(tmp_path, "x.zip", bytes(data), "damaged archive")


def test_damaged_length_that_hides_members_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(dict.fromkeys("abcdefgh", b"x")))
    entry = data.index(b"PK\x01\x02")
    data[entry + 32] = 47 * 3  # its comment reaches over the next three
    refused(tmp_path, "x.zip", bytes(data), "damaged archive .5 members found of 8")


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "GROWTH_FLOOR", 1 << 20)
    zeros = bytes(4 << 20)
    message = "unpacks to more than 1 MiB, 100 times its size"
    refused(tmp_path, "x.tar.gz", gzip.compress(tar({"z": zeros})), message)
    refused(tmp_path, "x.tar.xz", lzma.compress(tar({"z": zeros})), message)
    refused(tmp_path, "x.zip", zipped({"z": zeros}, zipfile.ZIP_DEFLATED), message)
    # a bomb of names: no member has a size
    monkeypatch.setattr(archives, "MOST_GROWTH", 10)
    many = gzip.compress(tar({f"{n}": b"" for n in range(5000)}))
    refused(tmp_path, "y.tar.gz", many, "unpacks to more than")


def test_size_that_a_zip_does_not_admit(tmp_path: Path) -> None:
    data = bytearray(zipped({"z": bytes(1 << 20)}, zipfile.ZIP_DEFLATED))
    place = data.rindex(b"PK\x01\x02") + 24
    assert int.from_bytes(data[place : place + 4], "little") == 1 << 20
    data[place : place + 4] = (10).to_bytes(4, "little")
    refused(tmp_path, "x.zip", bytes(data), "damaged archive")


def test_encrypted_and_sparse(tmp_path: Path) -> None:
    data = bytearray(zipped({"a": b"x"}))
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    refused(tmp_path, "x.zip", bytes(data), "'a' is encrypted")
    refused(tmp_path, "x.tar", tar({"a": b""}, type=tarfile.GNUTYPE_SPARSE), "sparse|header")


def test_file_that_is_a_directory_too(tmp_path: Path) -> None:
    refused(tmp_path, "x.tar", tar({"a": b"1", "a/b": b"2"}), "'a/b' is a file and a directory")
    refused(tmp_path, "y.tar", tar({"a/b": b"2", "a": b"1"}), "'a' is a file and a directory")


def test_of_members_of_one_name_the_last_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.tar").write_bytes(tar({"a": b"old"})[:1024] + tar({"a": b"new"}))
    unpack(tmp_path / "x.tar", tmp_path / "t")
    assert tree_bytes(tmp_path / "t") == {"a": b"new"}
    assert "'a' is there twice" in caplog.text


def test_names(tmp_path: Path) -> None:
    odd = {"é/हिन्दी.txt": b"1", "long-" * 40: b"2", "a b\n": b"3"}
    (tmp_path / "x.tar").write_bytes(tar(odd))
    unpack(tmp_path / "x.tar", tmp_path / "u")
    assert tree_bytes(tmp_path / "u") == odd
    refused(tmp_path, "y.tar", tar({"n" * 300: b"1"}), "cannot be a file here")


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"PK\x03\x04", b"BZh9", bytes(100), b"x" * 600])
def test_no_archive(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, "x.tar.gz", data, "damaged archive")


def test_a_full_disk_leaves_nothing_and_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.tar").write_bytes(tar(CONTENT))

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        unpack(tmp_path / "x.tar", tmp_path / "t")
    assert list((tmp_path / "t").iterdir()) == []
