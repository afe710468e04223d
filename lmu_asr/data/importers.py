"""Import of people's own data, many formats through one door.

Understood are a Kaldi data directory (``wav.scp text utt2spk [segments]``), JSON lines and CSV or
TSV tables (``key source target``, and optionally ``speaker start end channel``), Lhotse manifests
(recordings and supervisions, or cuts), and directories in LibriSpeech layout. ``wav.scp``, JSON lines
and tables may name audio by ``s3://bucket/key``.
"""

from __future__ import annotations

import csv
import functools
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.utils import fastcopy

from lmu_asr.data.audio import is_audio
from lmu_asr.data.layout import read_layout
from lmu_asr.data.manifests import (
    Manifests,
    Utterance,
    file_key,
    from_utterances,
    recording_rows,
    say_untranscribed,
    supervision_rows,
)
from lmu_asr.data.remote_audio import cached_path
from lmu_asr.data.rows import Rows, names
from lmu_asr.errors import DataError
from lmu_asr.remote import is_remote

TABLES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv")
# the names that lists in the wild use for the same column, ours first
COLUMNS = {
    "key": ("key", "id", "utt", "utt_id", "utterance"),
    "source": ("source", "audio", "audio_filepath", "wav", "path", "file", "audio_path"),
    "target": ("target", "text", "transcript", "sentence", "txt"),
    "speaker": ("speaker", "spk", "speaker_id", "client_id"),
    "start": ("start", "begin", "offset"),
    "end": ("end",),
    "duration": ("duration",),
    "channel": ("channel",),
}
Place = tuple[str, float, "float | None"]  # recording, start and end in seconds
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
        return read_cut_manifest if _is_cut_manifest(path) else lines
    raise DataError(f"{path}: unknown format; want {KNOWN}")


def resolve_audio(path: str, base: Path) -> Path:
    """Return where ``path`` is: as it is, beside the list that names it, or from here."""
    given = Path(path)
    if given.is_absolute() or (base / given).exists() or not given.exists():
        return base / given
    return given.resolve()


def locate_audio(name: str, base: Path, cache: Path | None, where: Path | str) -> tuple[Path, str]:
    """Return where audio is or will be, and the ``s3://`` address that it is fetched from, if any."""
    if is_remote(name):
        return cached_path(name, cache, str(where)), name
    return resolve_audio(name, base), ""


def read_kaldi(folder: Path, base: Path | None = None, cache: Path | None = None) -> Manifests:
    """Read a Kaldi data directory; ``segments`` and ``utt2spk`` are optional.

    Args:
        folder: the directory.
        base: directory that relative paths start from; ``folder`` by default.
        cache: where audio is kept that ``wav.scp`` names by ``s3://`` addresses.

    Raises:
        DataError: a file is missing, a line is broken or repeated, or audio is a command.
    """
    audio = _kaldi_audio(folder)
    locate = functools.partial(locate_audio, base=(base or folder).resolve(), cache=cache)
    texts = _kaldi_table(folder / "text")
    speakers = _kaldi_table(folder / "utt2spk", optional=True)
    segments = _kaldi_table(folder / "segments", optional=True)
    if len(segments):
        used = names(_segment(folder, entry)[0] for entry in segments)
        say_untranscribed((e.key for e in audio if e.key not in used), folder / "segments")
    places = segments if len(segments) else audio
    listed = (e.key for e in itertools.chain(texts, places))
    utterances = (
        _kaldi_utterance(folder, name, locate, audio, texts, speakers, segments)
        for name, _ in names(listed).firsts()
    )
    found = from_utterances(utterances, folder.name)
    files = names(found.files)
    named = (locate(entry.value, where=folder / "wav.scp") for entry in audio)
    files.extend(file_key(str(path)) for path, url in named if not url)
    return replace(found, files=files)


@dataclass(frozen=True)
class _Entry:
    """A line of a Kaldi table: its key, the rest, its number."""

    key: str
    value: str
    line: int


def _kaldi_utterance(
    folder: Path,
    name: str,
    locate: Callable[..., tuple[Path, str]],
    audio: Rows[_Entry],
    texts: Rows[_Entry],
    speakers: Rows[_Entry],
    segments: Rows[_Entry],
) -> Utterance:
    place: Place = (name, 0.0, None)
    if (entry := segments.get(name)) is not None:
        place = _segment(folder, entry)
    file, text, speaker = audio.get(place[0]), texts.get(name), speakers.get(name)
    path, url = folder / f"'{place[0]}' of wav.scp", ""
    if file is not None:
        path, url = locate(file.value, where=f"{folder}/wav.scp:{file.line}")
    return Utterance(
        id=name,
        audio=path,
        text=text.value if text else "",
        speaker=speaker.value if speaker else "",
        start=place[1],
        end=place[2],
        url=url,
    )


def _kaldi_audio(folder: Path) -> Rows[_Entry]:
    """Paths and addresses of ``wav.scp`` by recording."""
    table = _kaldi_table(folder / "wav.scp")
    for entry in table:
        if entry.value.endswith("|"):
            raise DataError(
                f"{folder}/wav.scp:{entry.line}: '{entry.key}' is a command ({entry.value}): "
                "commands are not run; convert the audio to files first and name those"
            )
    return table


def _kaldi_table(path: Path, optional: bool = False) -> Rows[_Entry]:
    """Read ``key rest of line`` by key."""
    table: Rows[_Entry] = Rows(_key)
    if not path.is_file():
        if optional:
            return table
        raise DataError(f"{path}: no such file; a Kaldi data directory needs wav.scp and text")
    for number, line in _lines(path):
        key, rest = [*line.split(maxsplit=1), ""][:2]
        table.append(_Entry(key, rest.strip(), number))
    for key in table.repeated()[:1]:
        first, again = table.all_of(key)[:2]
        raise DataError(f"{path}:{again.line}: '{key}' is already on line {first.line}")
    return table


def _key(entry: _Entry) -> str:
    return entry.key


def _segment(folder: Path, entry: _Entry) -> Place:
    try:
        recording_id, start, end = entry.value.split()
        return recording_id, float(start), float(end)
    except ValueError as error:
        raise DataError(
            f"{folder}/segments:{entry.line}: want '<utterance> <recording> <start> <end>', "
            f"got '{entry.key} {entry.value}'"
        ) from error


def read_json_lines(path: Path, cache: Path | None = None) -> Manifests:
    """Read JSON lines with ``key source target``, or the names that other toolkits use.

    Raises:
        DataError: a line is not a JSON object or lacks a column.
    """

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in _lines(path):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: want an object, got {type(row).__name__}")
            yield number, row

    return _read_rows(path, rows(), cache)


def read_table(path: Path, cache: Path | None = None) -> Manifests:
    """Read a CSV or TSV table whose first line names the columns.

    Raises:
        DataError: a column is missing, or a line has too few.
    """
    lines = (line for _, line in _lines(path))
    if path.name.endswith(".tsv"):  # quotes are text there
        reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(lines)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for row in reader:
            yield reader.line_num, {k: v for k, v in row.items() if v not in (None, "")}

    return _read_rows(path, rows(), cache)


def _read_rows(
    path: Path, rows: Iterator[tuple[int, dict[str, Any]]], cache: Path | None
) -> Manifests:
    locate = functools.partial(locate_audio, base=path.resolve().parent, cache=cache)
    return from_utterances((_row(f"{path}:{n}", row, locate) for n, row in rows), path.name)


def _row(where: str, row: dict[str, Any], locate: Callable[..., tuple[Path, str]]) -> Utterance:
    source = _column(row, "source")
    if source is None:
        raise DataError(
            f"{where}: no column 'source' (or {', '.join(COLUMNS['source'][1:])}); "
            f"found {', '.join(map(str, row))}"
        )
    start, end = _number(row, "start", where), _number(row, "end", where)
    duration, channel = _number(row, "duration", where), _number(row, "channel", where)
    if end is None and start is not None and duration is not None:
        end = start + duration
    path, url = locate(str(source), where=where)
    return Utterance(
        id=str(_column(row, "key") or Path(str(source)).stem),
        audio=path,
        text=str(_column(row, "target") or ""),
        speaker=str(_column(row, "speaker") or ""),
        start=start or 0.0,
        end=end,
        channel=None if channel is None else int(channel),
        url=url,
    )


def _column(row: dict[str, Any], name: str) -> Any:
    return next((row[c] for c in COLUMNS[name] if row.get(c) is not None), None)


def _number(row: dict[str, Any], name: str, where: str) -> float | None:
    value = _column(row, name)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name} is {value!r}, want a number") from error


def read_lhotse(path: Path) -> Manifests:
    """Read Lhotse supervisions and the recordings beside them (the same name, ``recordings``).

    Raises:
        DataError: the recordings are missing, or a manifest is broken.
    """
    beside = path.with_name(path.name.replace("supervisions", "recordings"))
    if not beside.is_file():
        raise DataError(f"{path}: its recordings are not there: {beside.name}")
    recordings = _manifest(RecordingSet, beside)
    return _local(recordings, supervision_rows(_manifest(SupervisionSet, path)), path)


def read_cut_manifest(path: Path) -> Manifests:
    """Read Lhotse cuts: each supervision becomes an utterance of its recording.

    Raises:
        DataError: the manifest is broken, or holds cuts that are mixed or lack a recording.
    """
    recordings, supervisions = recording_rows(), supervision_rows()
    last = ""
    for cut in _manifest(CutSet, path):
        if not isinstance(cut, MonoCut) or cut.recording is None:
            raise DataError(
                f"{path}: cut '{cut.id}' is a {type(cut).__name__} "
                "without one recording; want MonoCut with recording"
            )
        if cut.recording.id != last:
            recordings.append(cut.recording)
            last = cut.recording.id
        for segment in cut.supervisions:
            start = max(0.0, cut.start + segment.start)
            duration = min(segment.duration, cut.end - start)
            changes = {"start": start, "duration": duration, "recording_id": cut.recording.id}
            supervisions.append(fastcopy(segment, channel=cut.channel, **changes))
    return _local((recording for recording, _ in recordings.firsts()), supervisions, path)


def _is_cut_manifest(path: Path) -> bool:
    for _, line in _lines(path):
        return '"type"' in line and 'Cut"' in line
    return False


def _manifest(kind: Any, path: Path) -> Iterator[Any]:
    """Read a Lhotse manifest item by item, where it is JSON lines."""
    is_lines = path.name.endswith((".jsonl", ".jsonl.gz"))
    try:
        yield from kind.from_jsonl_lazy(path) if is_lines else kind.from_file(path)
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a whole Lhotse manifest: {error!r}") from error


def _local(
    recordings: Iterable[Recording], supervisions: Rows[SupervisionSegment], path: Path
) -> Manifests:
    """Resolve the audio's paths and note what is missing; refuse what is not a file."""
    kept, problems, files = recording_rows(), {}, names()
    for recording in recordings:
        source = recording.sources[0] if len(recording.sources) == 1 else None
        if source is None or source.type != "file" or recording.transforms:
            raise DataError(
                f"{path}: recording '{recording.id}' is not one plain audio file; "
                "export it to files first"
            )
        audio = resolve_audio(source.source, path.resolve().parent)
        if not audio.is_file():
            problems[recording.id] = f"{audio}: no such file"
            continue
        files.append(file_key(str(audio)))
        kept.append(fastcopy(recording, sources=[fastcopy(source, source=str(audio))]))
    return Manifests(RecordingSet(kept), SupervisionSet(supervisions), problems, files)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a text file that are not blank.

    Raises:
        DataError: not UTF-8, or a compressed file that is cut short.
    """
    number = 0
    try:
        opener: Any = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number + 1}: not UTF-8 ({error.reason}); convert it, for example with iconv"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}:{number + 1}: compressed file is cut short: {error}") from error
