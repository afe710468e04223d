"""Reading ahead in a thread, so that the next batch is made while the current one is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
CHECK_SECONDS = 0.1


class _End(Exception):  # noqa: N818
    """Nothing is left."""


def read_ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield ``items`` in their order; a thread makes up to ``depth`` of them beforehand.

    The first item is made in the calling thread, which so is the one that starts worker processes.
    What making an item raises comes out here, after the items before it. The thread ends when the
    iteration ends or is closed.
    """
    source = iter(items)
    try:
        yield next(source)
    except StopIteration:
        return
    ready: queue.Queue[T | BaseException] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(
        target=_fill, args=(source, ready, stopped), name="read-ahead", daemon=True
    )
    thread.start()
    try:
        while not isinstance(item := ready.get(), BaseException):
            yield item
        if not isinstance(item, _End):
            raise item
    finally:
        stopped.set()
        thread.join()


def _fill(
    source: Iterator[T], ready: queue.Queue[T | BaseException], stopped: threading.Event
) -> None:
    """Run in the thread: put items, then how they ended."""
    try:
        for item in source:
            if not _put(item, ready, stopped):
                return
        _put(_End(), ready, stopped)
    except BaseException as error:
        _put(error, ready, stopped)


def _put(
    item: T | BaseException, ready: queue.Queue[T | BaseException], stopped: threading.Event
) -> bool:
    """Wait for room; returns whether the item went in before the reader stopped."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=CHECK_SECONDS)
            return True
        except queue.Full:
            continue
    return False
