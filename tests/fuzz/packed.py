"""Archives: refused, or unpacked to exactly what was packed."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from lmu_asr.corpora.archives import unpack
from tests.data.speech import tree_bytes
from tests.fuzz.harness import Target

MEMBERS = {
    "top/a.txt": b"one " * 300,
    "top/b/c.txt": bytes(range(256)) * 3,
    "top/empty": b"",
    "top/" + "long-" * 30 + "é.txt": b"last",
}


def tar(mode: str) -> bytes:
    """A tar archive; ``mode`` is ``w``, ``w:gz``, ``w:bz2`` or ``w:xz``."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped() -> bytes:
    """A zip archive of deflated and stored members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number, (name, content) in enumerate(MEMBERS.items()):
            method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def _target(name: str, data: bytes, sealed: bool = True) -> Callable[[], Target]:
    def read(folder: Path) -> str:
        out = folder / "out"
        try:
            unpack(folder / name, out)
            found = tree_bytes(out)
            assert not sealed or found == MEMBERS, f"unpacked as {sorted(found)}"
            return "equal" if found == MEMBERS else "unpacked"
        finally:
            left = [p for p in out.rglob("*") if p.is_file()] if out.exists() else []
            assert not any(".unpacking" in str(p) for p in out.glob(".*")), "staging is left"
            for path in left:
                path.unlink()

    return lambda: Target(name, {name: data}, read, text=False)


TARGETS = {
    "tar.gz": _target("x.tar.gz", tar("w:gz")),
    "tar.bz2": _target("x.tar.bz2", tar("w:bz2")),
    "tar.xz": _target("x.tar.xz", tar("w:xz")),
    "zip": _target("x.zip", zipped()),
    "tar": _target("x.tar", tar("w"), sealed=False),  # it carries no sum of its contents
}
