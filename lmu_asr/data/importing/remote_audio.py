"""Audio that lists name by ``s3://`` addresses: fetched once, kept in a directory, checked at each run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lmu_asr.errors import DataError
from lmu_asr.remote import SCHEME, TRANSFERS, RemoteFolder, is_same, safe_name

T = TypeVar("T")
AHEAD = 4 * TRANSFERS  # files asked for before the first of them is needed


def cached_path(url: str, cache: Path | None, where: str) -> Path:
    """Return where the audio of an address is kept: ``<cache>/<bucket>/<key>``.

    Raises:
        DataError: no address of an object, or there is no directory to keep it in.
    """
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if not bucket or not key or key.endswith("/"):
        raise DataError(f"{where}: want s3://bucket/key of an audio file, got '{url}'")
    if cache is None:
        raise DataError(f"{where}: audio on S3 ({url}) is read by the recipe own (--data) alone")
    return cache / bucket / safe_name(key, f"{SCHEME}{bucket}")


def fetched(items: Iterable[T], place_of: Callable[[T], tuple[str, Path]]) -> Iterator[T]:
    """Yield items in their order, each when its audio is on this machine.

    Args:
        items: anything.
        place_of: its address, empty where there is nothing to fetch, and where it is kept.

    Raises:
        RemoteError: no credentials, no permission, no bucket, no network. Audio that is not in its
            bucket is removed here too, for the reader to find missing.
    """
    buckets: dict[str, RemoteFolder] = {}
    coming: deque[tuple[T, Future[None] | None]] = deque()
    with ThreadPoolExecutor(TRANSFERS) as pool:
        try:
            for item in items:
                coming.append((item, _start(pool, buckets, *place_of(item))))
                if len(coming) >= AHEAD:
                    yield _waited(*coming.popleft())
            while coming:
                yield _waited(*coming.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(
    pool: ThreadPoolExecutor, buckets: dict[str, RemoteFolder], url: str, path: Path
) -> Future[None] | None:
    if not url:
        return None
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if bucket not in buckets:
        buckets[bucket] = RemoteFolder(SCHEME + bucket)
    return pool.submit(_fetch, buckets[bucket], key, path)


def _waited(item: T, future: Future[None] | None) -> T:
    if future is not None:
        future.result()
    return item


def _fetch(bucket: RemoteFolder, key: str, path: Path) -> None:
    file = bucket.find(key)
    if file is None:
        path.unlink(missing_ok=True)
    elif not is_same(path, file):
        bucket.get(key, path, file)
