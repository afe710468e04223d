"""Import of Kaldi data directories."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lmu_asr.data.importing.audio_paths import exists, locate_audio
from lmu_asr.data.importing.pipes import Pipes, command_inputs, is_command
from lmu_asr.data.manifests import (
    Manifests,
    Utterance,
    file_key,
    from_utterances,
    say_untranscribed,
    segment_seconds,
)
from lmu_asr.data.rows import Rows, names
from lmu_asr.errors import DataError
from lmu_asr.remote import is_remote
from lmu_asr.text_lines import filled_lines

TO_THE_END = -1.0  # as the end of a segment
BLANKS = re.compile("[ \t]+")
# what Kaldi, a shell or a slip makes of an entry that is no path, and what to do
FORMS = (
    (r"^$", "has no file or command after its name"),
    (r"^\|", "has its pipe at the wrong end: a command that prints audio ends in '|'"),
    (r"^\w+://", "is an address of a kind that is not fetched: want a file, a command or s3://"),
    (r"^-$", "is standard input, which is not read: write it to a file and name that"),
    (r"\[[\d:, ]*\]$", "takes a range of a file: name the file, and give its seconds in segments"),
    (
        r"^(\"|').*|.*(\"|')$",
        "has quotes, which belong to the name here: write the path without them",
    ),
    (r"^~|\$\w|\$\{", "has what a shell replaces, and no shell reads it: write the path in full"),
    (
        r"^(\S*/)?(sph2pipe|flac|sox|ffmpeg|cat|zcat|gunzip|wav-copy|lame|opusdec|mpg123)\s",
        "looks like a command without its '|' at the end",
    ),
)
Place = tuple[str, float, "float | None"]  # recording, start and end in seconds


def read_kaldi(
    folder: Path,
    base: Path | None = None,
    cache: Path | None = None,
    pipes: Pipes | None = None,
) -> Manifests:
    """Read a Kaldi data directory; ``segments`` and ``utt2spk`` are optional.

    Args:
        folder: the directory.
        base: directory that relative paths start from; ``folder`` by default.
        cache: where audio is kept that ``wav.scp`` names by ``s3://`` addresses.
        pipes: how commands are run.

    Raises:
        DataError: a file is missing, a line is broken or repeated, audio lies in a Kaldi archive, or is
            a command and ``pipes`` is None.
    """
    audio = _kaldi_audio(folder, base or folder, pipes)
    locate = functools.partial(_located, base=(base or folder).resolve(), cache=cache, pipes=pipes)
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
    found = from_utterances(utterances, folder.name, pipes)
    files = names(found.files)
    for entry in audio:
        if pipes and is_command(entry.value):
            files.extend(file_key(str(path)) for path in command_inputs(entry.value, pipes.cwd))
        elif not is_remote(entry.value):
            files.append(file_key(str(locate(entry.value, where=folder / "wav.scp")[0])))
    return replace(found, files=files)


def _located(
    name: str, base: Path, cache: Path | None, pipes: Pipes | None, where: Path | str
) -> tuple[Path, str]:
    """Return where the audio of a line is or will be, and the address that it is fetched from."""
    if pipes and is_command(name):
        return pipes.place(name), ""
    return locate_audio(name, base, cache, where)


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
        command=file.value if file is not None and is_command(file.value) else "",
    )


def _kaldi_audio(folder: Path, base: Path, pipes: Pipes | None) -> Rows[_Entry]:
    """Paths, addresses and commands of ``wav.scp`` by recording."""
    table = _kaldi_table(folder / "wav.scp")
    for entry in table:
        where = f"{folder}/wav.scp:{entry.line}: '{entry.key}'"
        if is_command(entry.value) and pipes is None:
            raise DataError(
                f"{where} is a command ({entry.value}): commands run only if you allow it, with --set "
                "corpus.pipes=true; each runs once, in the directory that you call from, and its "
                "audio is kept as FLAC; or convert the audio to files first and name those"
            )
        form = (
            ""
            if is_remote(entry.value)
            else next((said for pattern, said in FORMS if re.search(pattern, entry.value)), "")
        )
        if form and not (is_command(entry.value) or (entry.value and exists(base / entry.value))):
            raise DataError(f"{where} {form} ({entry.value})")
        if re.search(r":\d+$", entry.value) and not (base / entry.value).exists():
            raise DataError(
                f"{where} is in a Kaldi archive at an offset ({entry.value}), which is not read: write "
                f"a command with Kaldi's tools (wav-copy {entry.value} - |) and allow it with --set "
                "corpus.pipes=true, or export the audio to files"
            )
    return table


def _kaldi_table(path: Path, optional: bool = False) -> Rows[_Entry]:
    """Read ``key rest of line`` by key."""
    table: Rows[_Entry] = Rows(_key)
    if not path.is_file():
        if optional:
            return table
        raise DataError(f"{path}: no such file; a Kaldi data directory needs wav.scp and text")
    for number, line in filled_lines(path):
        # Kaldi's blanks, no others: U+3000 and U+2028 are part of a text
        key, rest = [*BLANKS.split(line.strip(" \t\r"), maxsplit=1), ""][:2]
        table.append(_Entry(key, rest, number))
    for key in table.repeated()[:1]:
        first, again = table.all_of(key)[:2]
        raise DataError(f"{path}:{again.line}: '{key}' is already on line {first.line}")
    return table


def _key(entry: _Entry) -> str:
    return entry.key


def _segment(folder: Path, entry: _Entry) -> Place:
    where, fields = f"{folder}/segments:{entry.line}", BLANKS.split(entry.value)
    if len(fields) != 3:
        raise DataError(
            f"{where}: want '<utterance> <recording> <start> <end>', got '{entry.key} {entry.value}'"
        )
    start, end = segment_seconds(fields[1], fields[2], where)
    return fields[0], start, None if end == TO_THE_END else end
