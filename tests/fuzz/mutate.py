"""Changed copies of a file: what disks, networks, editors and other people's tools do to one."""

from __future__ import annotations

import random
from collections.abc import Callable

# what breaks parsers: no text at all, text that is not what it looks like, numbers out of range
ODD = (
    "\0", "\r", "\r\n", "\n", "\n\n", "\t", " ", "\u2028", "\u0085", "\x0b", "\x1c", "\ufeff",
    "\u200b", "\u202e", "\u0301", "\u0130", "\U0001f600", "\uff21", "'", '"', ",", "\\", "${x}",
    "nan", "-inf", "1e999", "-1", "0", "9" * 400, "[]", "{}", "null", "true", "<eps>", "#0", "|",
    "../", "s3://", "*a", "&a ", "!!python/object:os.system ", "\\ud800", "---\n", "~", "???",
)  # fmt: skip
RAW = (b"\xff", b"\xfe\xff", b"\xc3", b"\xed\xa0\x80", b"\x1f\x8b", b"PK\x03\x04", b"\0" * 600)
LONG = 4000


def mutate(rng: random.Random, data: bytes, text: bool) -> bytes:
    """Return ``data`` after one to three changes; ``text``: changes of lines are among them."""
    kinds = TEXT if text else BINARY
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(kinds)(rng, data)
    return data


def _flip(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return data
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    place, size = rng.randrange(len(data) + 1), rng.randrange(1, 9)
    return data[:place] + rng.randbytes(size) + data[place + size :]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(rng: random.Random, data: bytes) -> bytes:
    """Copy, move or drop a piece."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randrange(1, 200))
    to = rng.randrange(len(data) + 1)
    kept = data if rng.random() < 0.5 else data[:start] + data[end:]
    return kept[:to] + (data[start:end] if rng.random() < 0.7 else b"") + kept[to:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    if rng.random() < 0.2:
        return data[:place] + rng.choice(RAW) + data[place:]
    return data[:place] + rng.choice(ODD).encode() + data[place:]


def _run(rng: random.Random, data: bytes) -> bytes:
    """Insert something a great many times: deep brackets, a huge field, endless lines."""
    place = rng.randrange(len(data) + 1)
    what = rng.choice((b"[", b"{", b'{"a":', b"[[{", b"a", b"9", b" ", b"\n", b"\xcc\x81", b"- "))
    return data[:place] + what * rng.randrange(1, LONG) + data[place:]


def _lines(rng: random.Random, data: bytes) -> bytes:
    """Repeat, drop, swap or cut lines."""
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        lines.insert(other, lines[one])
    elif kind == 1:
        del lines[one]
    elif kind == 2:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        lines[one] = lines[one][: rng.randrange(len(lines[one]) + 1)]
    return b"\n".join(lines)


def _fields(rng: random.Random, data: bytes) -> bytes:
    """Drop, repeat or replace one field of one line."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    separator = rng.choice((b"\t", b",", b" ", b":"))
    fields = lines[number].split(separator)
    place = rng.randrange(len(fields))
    kind = rng.randrange(3)
    if kind == 0:
        del fields[place]
    elif kind == 1:
        fields.insert(place, fields[rng.randrange(len(fields))])
    else:
        fields[place] = rng.choice(ODD).encode()
    lines[number] = separator.join(fields)
    return b"\n".join(lines)


Mutation = Callable[[random.Random, bytes], bytes]
BINARY: tuple[Mutation, ...] = (_flip, _flip, _flip, _overwrite, _truncate, _splice, _insert, _run)
TEXT: tuple[Mutation, ...] = (*BINARY, _insert, _lines, _lines, _fields, _fields, _fields)
