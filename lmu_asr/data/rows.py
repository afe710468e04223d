"""Records on disk, in order and by key: what lists of millions of utterances go through.

A few thousand stay in memory; more go to a file without a name, in the directory that ``TMPDIR`` names
or else in ``/var/tmp``, which is gone when the records are. They are pickled: the file has no name that
another could write to, and what is read is what this process wrote.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Generic, TypeVar

from lmu_asr.errors import DataError

T = TypeVar("T")
MEMORY_KIB = 4096  # of each set of records
TOGETHER = 1000  # records written at once


class Rows(Generic[T]):
    """Records in the order in which they came.

    Args:
        key: names a record; several may have the same name.
        items: the first of them.

    Raises:
        DataError: from every method: the disk is full.
    """

    def __init__(self, key: Callable[[T], str], items: Iterable[T] = ()) -> None:
        self.key = key
        # the empty name is SQLite's for a private file on disk that it removes itself
        self._data = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        # nothing survives the process, so that there is nothing to roll back or sync
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{MEMORY_KIB}"):
            self._data.execute(f"PRAGMA {setting}")
        # keys as bytes: SQLite compares them as they are, and names need not be UTF-8
        self._data.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, key BLOB, data BLOB)")
        self._data.execute("BEGIN")
        self._count = 0
        self._waiting: list[tuple[int, bytes, bytes]] = []
        self._has_index = False
        self.extend(items)

    def append(self, item: T) -> None:
        """Add a record at the end."""
        self._put(_bytes(self.key(item)), pickle.dumps(item, pickle.HIGHEST_PROTOCOL))

    def extend(self, items: Iterable[T]) -> None:
        """Add records at the end."""
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return self._loaded("SELECT data FROM rows ORDER BY n")

    def __getitem__(self, number: int) -> T:
        if not isinstance(number, int):
            raise TypeError(f"want a number, got {number!r}; get() takes a key")
        place = number if number >= 0 else self._count + number
        found = next(self._loaded("SELECT data FROM rows WHERE n = ?", (place,)), None)
        if found is None:
            raise IndexError(number)
        return found

    def __contains__(self, key: object) -> bool:
        self._index()
        asked = (_bytes(str(key)),)
        return self._read("SELECT 1 FROM rows WHERE key = ? LIMIT 1", asked).fetchone() is not None

    def get(self, key: str) -> T | None:
        """Return the first record of a key."""
        self._index()
        query = "SELECT data FROM rows WHERE key = ? ORDER BY n LIMIT 1"
        return next(self._loaded(query, (_bytes(key),)), None)

    def all_of(self, key: str) -> list[T]:
        """Return the records of a key."""
        self._index()
        return list(self._loaded("SELECT data FROM rows WHERE key = ? ORDER BY n", (_bytes(key),)))

    def by_key(self) -> Iterator[T]:
        """Yield all records in the order of their keys' code points."""
        self._index()
        return self._loaded("SELECT data FROM rows ORDER BY key, n")

    def count_keys(self) -> int:
        """Return how many different keys there are."""
        self._index()
        return int(self._read("SELECT count(DISTINCT key) FROM rows").fetchone()[0])

    def firsts(self) -> Iterator[tuple[T, int]]:
        """Yield the first record of each key, in order, and how many the key has."""
        self._index()
        cursor = self._read(
            "SELECT r.data, g.count FROM "
            "(SELECT min(n) AS first, count(*) AS count FROM rows GROUP BY key) AS g "
            "JOIN rows AS r ON r.n = g.first ORDER BY g.first"
        )
        for data, count in cursor:
            yield _unpacked(data), count

    def repeated(self) -> list[str]:
        """Return the keys that occur more than once, in the order of their first."""
        self._index()
        cursor = self._read("SELECT key FROM rows GROUP BY key HAVING count(*) > 1 ORDER BY min(n)")
        return [_text(key) for (key,) in cursor]

    def selected(self, keys: Container[str]) -> Rows[T]:
        """Return the records whose key is one of ``keys``, in order."""
        chosen: Rows[T] = Rows(self.key)
        for key, data in self._read("SELECT key, data FROM rows ORDER BY n"):
            if _text(key) in keys:
                chosen._put(key, data)
        return chosen

    def _put(self, key: bytes, data: bytes) -> None:
        self._waiting.append((self._count, key, data))
        self._count += 1
        if len(self._waiting) >= TOGETHER:
            self._write()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        with _named_errors():
            self._data.executemany("INSERT INTO rows VALUES (?, ?, ?)", waiting)

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        if self._waiting:
            self._write()
        with _named_errors():
            return self._data.execute(query, values)

    def _index(self) -> None:
        if not self._has_index:
            # only once asked for: many lists are never looked up by key
            self._read("CREATE INDEX by_key ON rows (key)")
            self._has_index = True

    def _loaded(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[T]:
        return (_unpacked(data) for (data,) in self._read(query, values))


class _named_errors:  # noqa: N801
    """Say what to do when there is no room: a class, for it is entered millions of times."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, sqlite3.OperationalError):
            raise DataError(
                f"temporary files of preparation: {error}; name a directory with room in TMPDIR"
            ) from error


def names(items: Iterable[str] = ()) -> Rows[str]:
    """Return records that are their own keys."""
    return Rows(str, items)


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")  # names of files may not be UTF-8


def _unpacked(data: bytes) -> Any:
    """Load a record; pickle is safe here, as only this process can have written it."""
    return pickle.loads(data)


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
