"""Reading ahead: order, errors, and that nothing is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from lmu_asr.data.batches.ahead import read_ahead
from lmu_asr.errors import DataError


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read-ahead"]


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_order_is_kept_and_the_thread_ends(count: int) -> None:
    assert list(read_ahead(range(count))) == list(range(count))
    assert not threads()


def test_items_are_made_beforehand_but_no_more_than_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    ahead = read_ahead(items(), 3)
    assert next(ahead) == 0 and made == [0]  # in the calling thread
    assert next(ahead) == 1
    deadline = time.monotonic() + 240.0
    while len(made) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert made == [0, 1, 2, 3, 4, 5]  # 1 was taken, 2 to 4 wait, 5 is in hand
    ahead.close()  # type: ignore[attr-defined]
    assert not threads()


def test_the_first_item_is_made_in_the_calling_thread() -> None:
    places = list(read_ahead(threading.current_thread().name for _ in range(3)))
    assert places == [threading.current_thread().name, "read-ahead", "read-ahead"]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise DataError("features of 'a' cannot be read")

    got = []
    with pytest.raises(DataError, match="features of 'a'"):
        for item in read_ahead(items()):
            got.append(item)
    assert got == [1, 2]
    assert not threads()
