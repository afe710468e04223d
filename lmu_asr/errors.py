"""Every error that bad input can raise, one base class so that a stage prints it without a traceback."""

from __future__ import annotations

import codecs
import errno
import io

LONGEST_LINE, MOST_LINES = 1000, 200  # of a message: it may quote a file of one huge line


class LmuAsrError(Exception):
    """Base of all errors of the package: the message says what, where, both values, and what to do.

    What a message quotes of a file is shortened, and its control characters are shown as escapes,
    so that a hostile file cannot write to the terminal; bytes of a name that are not UTF-8 as ``%XX``.
    """

    def __str__(self) -> str:
        lines = super().__str__().split("\n")
        shown = [_shown(line) for line in lines[:MOST_LINES]]
        more = len(lines) - len(shown)
        return "\n".join([*shown, f"... and {more} more lines"] if more else shown)


def _shown(line: str) -> str:
    if len(line) > LONGEST_LINE:
        half = LONGEST_LINE // 2
        line = f"{line[:half]} [{len(line) - 2 * half} characters] {line[-half:]}"
    if line.isprintable():
        return line
    return "".join(map(_escaped, line))


def _escaped(character: str) -> str:
    if is_surrogate(character):
        return percent(character)
    is_kept = character == "\t" or ord(character) >= 0xA0 or character.isprintable()
    return character if is_kept else ascii(character)[1:-1]


def is_surrogate(character: str) -> bool:
    """Whether a character stands for what is not UTF-8, as in a file's name."""
    return "\ud800" <= character <= "\udfff"


def percent(character: str) -> str:
    """Return ``%`` and two hexadecimal digits a byte; of a byte that is not UTF-8, that byte."""
    of_a_name = "\udc80" <= character <= "\udcff"  # Python's ``surrogateescape``
    data = character.encode("utf-8", "surrogateescape" if of_a_name else "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in data)


def show_names_on(stream: object) -> None:
    """Make a text stream write what is not UTF-8 in names as ``%XX``, as messages and lists do."""
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error("percent", _percent_error)
        stream.reconfigure(errors="percent")


def _percent_error(error: UnicodeError) -> tuple[str, int]:
    """Of what another encoding lacks, an escape of Python."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(percent(c) if is_surrogate(c) else ascii(c)[1:-1] for c in found), error.end


class ConfigError(LmuAsrError):
    """An unknown key, a wrong type or a value out of range in a configuration."""


class DataError(LmuAsrError):
    """Audio, text or a manifest that cannot be used."""


class LangError(LmuAsrError):
    """A lexicon, tokenizer or lang directory that is inconsistent."""


class GraphError(LmuAsrError):
    """A decoding graph or language model that is broken or belongs to another lang directory."""


class ModelError(LmuAsrError):
    """A model that cannot be built, or that a given input does not fit."""


class CheckpointError(LmuAsrError):
    """A checkpoint that is cut, changed, or of another model, manifest or lang directory."""


class TrainingError(LmuAsrError):
    """A training run that cannot go on."""


class StageError(LmuAsrError):
    """A stage that was asked for before its input exists, or whose output cannot be written."""


class DocumentError(LmuAsrError, ValueError):
    """A JSON or YAML document that is cut, damaged, too large, too deep, or of another shape."""


class RemoteError(LmuAsrError):
    """A bucket that cannot be read or written."""


def advice(error: OSError) -> str:
    """Return what to do about a file that cannot be written or read; empty where nothing is known."""
    return _ADVICE.get(error.errno or 0, "")


_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the limit on the size of a file is reached: raise it (ulimit -f)",
    errno.EACCES: "no permission: choose another --data-dir or --exp-dir",
    errno.EPERM: "no permission: choose another --data-dir or --exp-dir",
    errno.EROFS: "read-only file system: choose another --data-dir or --exp-dir",
    errno.ENOTDIR: "a file stands where a directory should: choose another --data-dir or --exp-dir",
    errno.EEXIST: "a file stands where a directory should: choose another --data-dir or --exp-dir",
    errno.EISDIR: "a directory stands where a file should: choose another --data-dir or --exp-dir",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
    errno.EIO: "the disk or the network disk fails: check it",
    errno.ESTALE: "the network disk has lost the file: check it",
}
