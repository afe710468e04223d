"""Downloads that resume, verify and explain."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.archives import unpack
from lmu_asr.corpora.text import normalize_english
from lmu_asr.errors import DataError, DocumentError
from lmu_asr.files import atomic_write_text, read_json, write_json
from lmu_asr.progress import progress

ATTEMPTS = 8  # in a row without a byte gained
FIRST_WAIT, LONGEST_WAIT = 1.0, 120.0  # seconds
TIMEOUT = 60.0  # seconds without a byte
BLOCK = 1 << 20
REFUSALS = {
    401: "the server asks for a login",
    403: "the server refuses: the corpus may need a licence, or this address is blocked",
    404: "the server does not have it (any more)",
    410: "the server does not have it any more",
}
BUSY = (408, 425, 429, 500, 502, 503, 504)
NO_NETWORK_ATTEMPTS = 2  # where no server has been reached yet: waiting does not help
NO_NETWORK = (errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)

__all__ = ["Archive", "Downloaded", "check_digest", "download", "fetch_and_unpack", "unpack"]


class Downloaded:
    """Base of corpora that are archives on a server: subclasses say which, and read them."""

    name: str
    language: str = "en"
    license_note: str
    bases: Sequence[str]

    def archives(self, config: CorpusConfig) -> Sequence[Archive]:
        """Return what the splits of ``config`` need, in order."""
        raise DataError(f"corpus '{self.name}' has no archives")

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Fetch, verify and unpack (see :class:`lmu_asr.corpora.base.Corpus`)."""
        logging.info("%s", self.license_note)
        bases = [config.mirror] if config.mirror else self.bases
        fetch_and_unpack(self.archives(config), bases, target, config.download_dir)

    def normalize(self, text: str) -> str:
        """Lower case, apostrophes kept, other punctuation dropped."""
        return normalize_english(text)


@dataclass(frozen=True)
class Archive:
    """One file to download.

    Attributes:
        path: below the base address, such as ``12/dev-clean.tar.gz``.
        digest: ``sha256:...`` or ``md5:...`` as published; empty when the publisher gives none.
    """

    path: str
    digest: str = ""

    @property
    def name(self) -> str:
        """File name."""
        return PurePosixPath(self.path).name


class RefusedError(Exception):
    """An address that will not give the file, however often it is asked."""


def fetch_and_unpack(
    archives: Sequence[Archive], bases: Sequence[str], target: Path, download_dir: str = ""
) -> None:
    """Download archives and unpack them in ``target``; what is done already is kept.

    Args:
        archives: what to fetch.
        bases: addresses to try in turn, each a prefix of ``Archive.path``.
        target: receives the files.
        download_dir: the user's own copies, by file name; used before any address, kept as they
            are.

    Raises:
        DataError: an archive cannot be had or is damaged; the message says what to do.
    """
    for archive in archives:
        mark = target / ".unpacked" / f"{archive.name}.json"
        if _content(mark) == {"digest": archive.digest}:
            logging.info("%s: already downloaded", archive.name)
            continue
        own = Path(download_dir) / archive.name if download_dir else None
        if own is not None and own.is_file():
            check_digest(own, archive.digest)
            path = own
        else:
            path = target / archive.name
            urls = [f"{base.rstrip('/')}/{archive.path}" for base in bases]
            download(urls, path, archive.digest)
        unpack(path, target)
        # the mark before the archive goes: a kill between the two costs no second download
        write_json(mark, {"digest": archive.digest})
        if path != own:
            path.unlink()


def download(urls: Sequence[str], path: Path, digest: str = "") -> None:
    """Fetch a file from the first address that gives it, going on where an earlier call stood.

    Args:
        urls: addresses of the same file.
        path: receives it, whole and verified; until then the bytes lie in ``<path>.part``.
        digest: ``sha256:...``, ``md5:...`` or empty.

    Raises:
        DataError: every address refused, was wrong or stayed silent.
    """
    if path.is_file() and (not digest or file_digest(path, digest) == digest):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in urls:
        try:
            _download_from(url, path, digest)
            return
        except RefusedError as error:
            reasons.append(f"{url}: {error}")
            logging.warning("%s", reasons[-1])
    raise DataError(
        f"{path.name} cannot be downloaded. "
        + "; ".join(reasons)
        + ". Fetch it by other means and give its directory with --set corpus.download_dir=DIR, "
        "or another base address with --set corpus.mirror=ADDRESS"
    )


def _download_from(url: str, path: Path, digest: str) -> None:
    """Fetch from one address, with patience. Raises RefusedError when it is of no use."""
    part = path.with_name(f"{path.name}.part")
    failures, restarts, reached = 0, 0, False
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _append(url, part)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            gained = (part.stat().st_size if part.exists() else 0) > before
            reached = reached or gained or isinstance(error, urllib.error.HTTPError)
            failures = 0 if gained else failures + 1
            _wait(url, error, failures, reached)
            continue
        if not digest or (found := file_digest(part, digest)) == digest:
            os.replace(part, path)
            _state_path(part).unlink(missing_ok=True)
            return
        _forget(part)
        restarts += 1
        # a part that was resumed may mix two versions: a whole download decides
        if restarts > 1 or before == 0:
            raise RefusedError(f"its checksum is {found}, {digest} is wanted")
        logging.warning(
            "%s: wrong checksum after resuming; downloading it again from the start", url
        )


def _append(url: str, part: Path) -> None:
    """Ask for what is missing of ``part`` and append it; return when the file is complete."""
    have = part.stat().st_size if part.exists() else 0
    state = _content(_state_path(part)) if have else {}
    if have and state.get("url") == url and state.get("total") == have:
        return
    # without a version If-Range cannot tell whether the server's file is still the same
    if state.get("url") != url or not isinstance(state.get("version"), str) or not state["version"]:
        _forget(part)
        have = 0
    headers = {"User-Agent": "lmu-asr"}
    if have:
        headers["Range"] = f"bytes={have}-"
        headers["If-Range"] = state["version"]
    request = urllib.request.Request(url, headers=headers)
    with _open(request, part) as response:
        # no ranges here, or the file has changed: the whole comes from its start
        if response.status != 206:
            have = 0
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        total = _total(response, have)
        _check_space(part, (total or 0) - have)
        # before the first byte, so that after a kill the part's version is known
        atomic_write_text(
            _state_path(part), json.dumps({"url": url, "version": version, "total": total})
        )
        with open(part, "ab" if have else "wb") as stream:
            blocks = -(-(total - have) // BLOCK) if total is not None else None
            for block in progress(_blocks(response), part.stem, total=blocks, unit="MiB"):
                stream.write(block)
    size = part.stat().st_size
    # read(n) of a connection that is closed early ends like that of a whole file
    if total is not None and size < total:
        raise http.client.IncompleteRead(b"", total - size)


def _open(request: urllib.request.Request, part: Path) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what we have is longer than the file
            _forget(part)
        raise


def _blocks(response: Any) -> Iterator[bytes]:
    while block := response.read(BLOCK):
        yield block


def _total(response: Any, have: int) -> int | None:
    length = (response.headers.get("Content-Length") or "").strip()
    return have + int(length) if length.isascii() and length.isdecimal() else None


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DataError(
            f"{part.parent}: {needed / 2**30:.1f} GiB wanted, {free / 2**30:.1f} GiB free"
        )


def _content(path: Path) -> dict[str, Any]:
    """Content of one of our own small files; empty where it is missing or damaged."""
    try:
        values = read_json(path)
    except (OSError, DocumentError):
        return {}
    return values if isinstance(values, dict) else {}


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _wait(url: str, error: Exception, failures: int, reached: bool) -> None:
    """Wait before the next try, and say how long; raise RefusedError when there is no sense in one.

    Args:
        url: the address.
        error: what the last try ended in.
        failures: tries in a row that gained no byte.
        reached: whether the server has answered before.
    """
    reason, asked = str(error) or repr(error), None
    if isinstance(error, urllib.error.HTTPError):
        if error.code not in BUSY and error.code != 416:
            refusal = REFUSALS.get(error.code, error.reason)
            raise RefusedError(f"status {error.code}: {refusal}") from error
        asked = error.headers.get("Retry-After")
    elif _is_final(error, reached):
        raise RefusedError(reason) from error
    elif isinstance(error, OSError) and not isinstance(
        error, (urllib.error.URLError, ConnectionError, TimeoutError)
    ):
        raise error  # the disk, not the network
    attempts = NO_NETWORK_ATTEMPTS if _is_no_network(error) and not reached else ATTEMPTS
    if failures >= attempts:
        raise RefusedError(f"{failures} tries without a byte, the last: {reason}") from error
    waits = [
        min(FIRST_WAIT * 2.0**n, LONGEST_WAIT) for n in range(max(0, failures - 1), attempts - 1)
    ]
    if asked is not None and asked.strip().isdecimal():
        waits[0] = min(float(asked), LONGEST_WAIT)
    logging.warning(
        "%s: %s; try %d of %d in %.0f s, given up after %.0f s more of waiting",
        *(url, reason, failures + 1, attempts, waits[0], sum(waits)),
    )
    time.sleep(waits[0])


def _is_final(error: Exception, reached: bool) -> bool:
    """Whether another try cannot help: no such name, no address, a certificate that is wrong."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, socket.gaierror):  # a name that was there comes back with the network
        return cause.errno != socket.EAI_AGAIN and not reached
    if isinstance(cause, (ssl.SSLCertVerificationError, http.client.InvalidURL)):
        return True
    # urllib has no handler for "foo:"; other text that is no address is a ValueError
    return isinstance(error, ValueError) or "unknown url type" in str(cause)


def _is_no_network(error: Exception) -> bool:
    """Whether there seems to be no network here: no name can be asked for, no route leads out."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, socket.gaierror):
        return True
    return isinstance(cause, OSError) and cause.errno in NO_NETWORK


def file_digest(path: Path, like: str) -> str:
    """Digest of a file, by the algorithm that ``like`` names, as ``algorithm:hexadecimal``."""
    algorithm = like.partition(":")[0]
    digest = hashlib.new(algorithm)
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"


def check_digest(path: Path, digest: str) -> None:
    """Check the user's own copy of an archive.

    Raises:
        DataError: its checksum is another.
    """
    if digest and (found := file_digest(path, digest)) != digest:
        raise DataError(f"{path}: its checksum is {found}, {digest} is wanted: not the whole file?")
