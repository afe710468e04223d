"""Import of people's own data, many formats through one door.

Understood are a Kaldi data directory (``wav.scp text utt2spk [segments]``), JSON lines and CSV or
TSV tables (``key source target``, and optionally ``speaker split start end duration channel``),
Parquet files and directories that ``datasets`` of Hugging Face saved, Lhotse manifests (recordings
and supervisions, or cuts), and directories in LibriSpeech layout. ``wav.scp`` and lists may name
audio by ``s3://bucket/key``.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lmu_asr.data.audio.reader import is_audio
from lmu_asr.data.importing.arrow import DATASET_DICT, arrow_files, is_saved, read_arrow
from lmu_asr.data.importing.kaldi import read_kaldi
from lmu_asr.data.importing.layout import TRANSCRIPTS, read_layout
from lmu_asr.data.importing.lhotse_manifests import is_cut_manifest, read_cut_manifest, read_lhotse
from lmu_asr.data.importing.list_names import PARQUET, TABLES, find_splits, spelling_of
from lmu_asr.data.importing.pipes import Pipes
from lmu_asr.data.importing.tables import read_json_lines, read_table
from lmu_asr.data.manifests import Manifests
from lmu_asr.errors import DataError
from lmu_asr.files import files_below

KNOWN = "a Kaldi data directory (wav.scp, text), a .jsonl, .csv, .tsv or .parquet list, Lhotse manifests"
SHARD = re.compile(r"(.+?)-\d+-of-(\d+)\.parquet")


def split_paths(source: Path, splits: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Return the splits that ``source`` holds by name, as sub-directories or as files.

    A split ``train`` is ``train/``, ``train.jsonl`` (``.csv``, ``.tsv``, ``.parquet``),
    ``train-00000-of-00002.parquet`` and its like, ``train_cuts.jsonl.gz``, ``cuts_train.jsonl.gz``,
    or ``<any>_supervisions_train.jsonl.gz`` beside its recordings. Synonyms count as
    :func:`lmu_asr.data.importing.list_names.find_splits` says. A list goes before a directory without one.

    Raises:
        DataError: ``source`` does not exist, two names mean one split, or some files of one are missing.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or directory (corpus.source)")
    if not source.is_dir() or (source / "wav.scp").is_file():
        return {}
    found: dict[str, tuple[Path, ...]] = {}
    for word, paths in _candidates(source):
        first = found.setdefault(word, paths)[0]
        if first is not paths[0] and first.is_dir() and not _has_lists(first):
            found[word] = paths  # train.csv, its audio in train/
    words = [w for w, paths in found.items() if w in splits or not _is_audio_of(w, found)]
    named = {name: found[word] for name, word in find_splits(words, splits, source).items()}
    for paths in named.values():
        if (match := SHARD.fullmatch(paths[0].name)) and len(paths) != int(match[2]):
            raise DataError(
                f"{paths[0].parent}: {len(paths)} of {int(match[2])} files {match[1]}-*: fetch the rest"
            )
    return named


def _is_audio_of(word: str, found: Mapping[str, tuple[Path, ...]]) -> bool:
    """Whether a directory without lists lies beside another word for its split: train.csv, Training/."""
    folder = found[word][0]
    beside = any(spelling_of(other, [word]) for other in found if other != word)
    return beside and folder.is_dir() and not _has_lists(folder)


def _candidates(source: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Yield what may be a split of a directory under its word, the most likely first."""
    with os.scandir(source) as entries:
        named = sorted((entry.name, entry.is_dir()) for entry in entries)
    yield from ((name, (source / name,)) for name, is_dir in named if is_dir)
    lists = [n for n, is_dir in named if not is_dir and n.lower().endswith((*TABLES, PARQUET))]
    for form in ("{}", "{}_cuts", "cuts_{}", "*cuts_{}", "*supervisions_{}"):
        suffixes = (*TABLES, PARQUET) if "*" not in form else TABLES[:2]
        pattern = re.escape(form).replace(r"\{\}", "(.+)").replace(r"\*", ".*")
        for suffix in suffixes:
            matches = (re.fullmatch(f"{pattern}(?i:{re.escape(suffix)})", name) for name in lists)
            yield from ((match[1], (source / match[0],)) for match in matches if match)
    shards: dict[str, list[Path]] = {}
    for folder in (source, source / "data"):  # as repositories of data sets have them
        for path in sorted(folder.glob("*" + PARQUET)):
            if match := SHARD.fullmatch(path.name):
                shards.setdefault(match[1], []).append(path)
    yield from ((word, tuple(found)) for word, found in shards.items())


def _has_lists(folder: Path) -> bool:
    try:
        _reader(folder)
    except DataError:
        return False
    return True


def import_data(path: Path, cache: Path | None = None, pipes: Pipes | None = None) -> Manifests:
    """Read one set of utterances in whatever format ``path`` is.

    Args:
        path: file or directory.
        cache: where audio is kept that lists name by ``s3://`` addresses, or hold in themselves.
        pipes: how commands of ``wav.scp`` are run; None: they are refused.

    Raises:
        DataError: an unknown format, or a broken line; the message names the file and the line.
        RemoteError: audio cannot be fetched.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    return _reader(path, cache, pipes)(path)


def import_parts(
    paths: Sequence[Path], cache: Path | None = None, pipes: Pipes | None = None
) -> Manifests:
    """Read the files of one split: several where they are shards of Parquet."""
    return import_data(paths[0], cache, pipes) if len(paths) == 1 else read_arrow(paths, cache)


def untranscribed(parts: Iterable[Manifests]) -> Iterator[str]:
    """Yield the names of audio files that lie beside those of some lists, but that none names."""
    files = [part.files for part in parts]
    for folder in sorted({path.rpartition("/")[0] for named in files for path in named}):
        for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
            if is_audio(path) and not any(str(path) in named for named in files):
                yield path.stem


def _reader(
    path: Path, cache: Path | None = None, pipes: Pipes | None = None
) -> Callable[[Path], Manifests]:
    if path.is_dir():
        return _directory_reader(path, cache, pipes)
    name = path.name.lower()
    if name.endswith((".csv.gz", ".tsv.gz")):
        raise DataError(f"{path}: packed tables are not read; unpack it first: gunzip -k {path}")
    if name.endswith((".csv", ".tsv")):
        return functools.partial(read_table, cache=cache)
    if path.name.endswith(PARQUET):
        return lambda _: read_arrow([path], cache)
    if "supervisions" in path.name:
        return read_lhotse
    if name.endswith((".jsonl", ".jsonl.gz", ".json")):
        lines = functools.partial(read_json_lines, cache=cache)
        return read_cut_manifest if is_cut_manifest(path) else lines
    raise DataError(f"{path}: unknown format; want {KNOWN}")


def _directory_reader(
    path: Path, cache: Path | None, pipes: Pipes | None
) -> Callable[[Path], Manifests]:
    if (path / "wav.scp").is_file():
        return functools.partial(read_kaldi, cache=cache, pipes=pipes)
    if is_saved(path):
        return lambda _: read_arrow(arrow_files(path), cache)
    paths = sorted(path.iterdir())
    parquet = [p for p in paths if p.name.endswith(PARQUET)]
    tables = [p for p in paths if p.name.lower().endswith(TABLES) and p.name != DATASET_DICT]
    lhotse = [p for p in tables if "supervisions" in p.name or "cuts" in p.name]
    lists = lhotse or [p for p in tables if "recordings" not in p.name]
    if len(lists) == 1 and not parquet:
        return lambda _: import_data(lists[0], cache)
    if parquet and not lists:
        return lambda _: read_arrow(parquet, cache)
    if any(files_below(path, TRANSCRIPTS)):
        return read_layout
    found = ", ".join(p.name for p in paths[:10]) or "nothing"
    raise DataError(f"{path}: want {KNOWN}, or LibriSpeech layout; found {found}")
