"""Import of people's own data, many formats through one door.

Understood are a Kaldi data directory (``wav.scp text utt2spk [segments]``), JSON lines and CSV or
TSV tables (``key source target``, and optionally ``speaker start end channel``), Lhotse manifests
(recordings and supervisions, or cuts), and directories in LibriSpeech layout. ``wav.scp``, JSON lines
and tables may name audio by ``s3://bucket/key``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lmu_asr.data.audio import is_audio
from lmu_asr.data.kaldi_import import read_kaldi
from lmu_asr.data.layout import read_layout
from lmu_asr.data.lhotse_import import is_cut_manifest, read_cut_manifest, read_lhotse
from lmu_asr.data.manifests import Manifests
from lmu_asr.data.table_import import read_json_lines, read_table
from lmu_asr.errors import DataError

TABLES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv")
KNOWN = "a Kaldi data directory (wav.scp, text), a .jsonl, .csv or .tsv list, Lhotse manifests"


def split_paths(source: Path, splits: Sequence[str]) -> dict[str, Path]:
    """Return the splits that ``source`` holds by name, as sub-directories or as files.

    A split ``train`` is ``train/``, ``train.jsonl`` (``.csv``, ``.tsv``), ``train_cuts.jsonl.gz``,
    ``cuts_train.jsonl.gz``, or ``<any>_supervisions_train.jsonl.gz`` beside its recordings.

    Raises:
        DataError: ``source`` does not exist.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or directory (corpus.source)")
    found: dict[str, Path] = {}
    for name in splits:
        for path in _split_candidates(source, name):
            found.setdefault(name, path)
    return found


def _split_candidates(source: Path, name: str) -> Iterator[Path]:
    if not source.is_dir():
        return
    if (source / name).is_dir():
        yield source / name
    for suffix in TABLES:
        stems = (name, f"{name}_cuts", f"cuts_{name}")
        yield from (p for stem in stems if (p := source / f"{stem}{suffix}").is_file())
    for suffix in (".jsonl", ".jsonl.gz"):
        yield from sorted(source.glob(f"*cuts_{name}{suffix}"))
        yield from sorted(source.glob(f"*supervisions_{name}{suffix}"))


def import_data(path: Path, cache: Path | None = None) -> Manifests:
    """Read one set of utterances in whatever format ``path`` is.

    Args:
        path: file or directory.
        cache: where audio is kept that Kaldi's ``wav.scp`` and lists name by ``s3://`` addresses.

    Raises:
        DataError: an unknown format, or a broken line; the message names the file and the line.
        RemoteError: audio cannot be fetched.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    return _reader(path, cache)(path)


def untranscribed(parts: Iterable[Manifests]) -> Iterator[str]:
    """Yield the names of audio files that lie beside those of some lists, but that none names."""
    files = [part.files for part in parts]
    for folder in sorted({path.rpartition("/")[0] for named in files for path in named}):
        for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
            if is_audio(path) and not any(str(path) in named for named in files):
                yield path.stem


def _reader(path: Path, cache: Path | None) -> Callable[[Path], Manifests]:
    if path.is_dir():
        if (path / "wav.scp").is_file():
            return functools.partial(read_kaldi, cache=cache)
        tables = [p for p in sorted(path.iterdir()) if p.name.endswith(TABLES)]
        lhotse = [p for p in tables if "supervisions" in p.name or "cuts" in p.name]
        lists = lhotse or [p for p in tables if "recordings" not in p.name]
        if len(lists) == 1:
            return lambda _: import_data(lists[0], cache)
        if next(path.rglob("*.trans.txt"), None):
            return read_layout
        found = ", ".join(p.name for p in sorted(path.iterdir())[:10]) or "nothing"
        raise DataError(f"{path}: want {KNOWN}, or LibriSpeech layout; found {found}")
    if path.name.endswith((".csv", ".tsv")):
        return functools.partial(read_table, cache=cache)
    if "supervisions" in path.name:
        return read_lhotse
    if path.name.endswith((".jsonl", ".jsonl.gz", ".json")):
        lines = functools.partial(read_json_lines, cache=cache)
        return read_cut_manifest if is_cut_manifest(path) else lines
    raise DataError(f"{path}: unknown format; want {KNOWN}")
