"""The parsers of what users bring, each with a good example and with what must hold of it."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from lmu_asr.config import FeaturesConfig
from lmu_asr.corpora import get_corpus
from lmu_asr.data.importing.importers import import_data
from lmu_asr.data.importing.validate import validate_and_repair
from lmu_asr.data.manifests import Manifests
from lmu_asr.files import read_json, write_json
from tests.fuzz import documents, language, packed, shar
from tests.fuzz.harness import Target

IDS = ("alpha", "beta-1", "gamma_2", "d.elta", "u5")
TEXTS = (
    "one two three", "it's a café", "ещё раз", "हिन्दी में", "four  five",
)  # fmt: skip


def audio(suffix: str = "wav", seconds: float = 0.5) -> bytes:
    """Quiet noise, 8 kHz."""
    samples = 0.1 * np.random.default_rng(1).standard_normal(round(8000 * seconds))
    stream = io.BytesIO()
    soundfile.write(stream, samples, 8000, format=suffix)
    return stream.getvalue()


def clips() -> dict[str, bytes]:
    """Eight audio files by name."""
    return {f"clips/{name}.wav": audio() for name in IDS}


def checked(folder: Path, manifests: Manifests, rows: range | None) -> str:
    """Validate what was imported: rows in are rows kept and rows listed as dropped.

    ``rows`` None: how many there are is not known beforehand.
    """
    total = len(manifests.supervisions)
    assert rows is None or total in rows, f"{rows} rows in, {total} utterances"
    kept, report = validate_and_repair(
        manifests, "train", FeaturesConfig(), get_corpus("own").normalize
    )
    assert len(kept.supervisions) + len(report.dropped) == report.total == total
    written = folder / "clips/report"  # not among what is read as a list
    write_json(written, report.to_json())
    assert read_json(written) == report.to_json()
    written.unlink()
    for segment in kept.supervisions:
        line = f"{segment.id} {segment.text}"
        line.encode()
        assert segment.id.split() == [segment.id], repr(segment.id)
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in segment.id)
        assert len(line.splitlines()) == 1 and "\0" not in line, repr(line)
    return "with drops" if report.dropped else "kept whole"


def text_lines(path: Path) -> range:
    """How many rows a file may have: a line of nothing but odd blanks may be one or none."""
    text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = text.split("\n")
    return range(
        sum(bool(line.strip()) for line in lines),
        sum(bool(line.strip(" \t\r")) for line in lines) + 1,
    )


def without_heading(path: Path) -> range:
    """Rows of a table whose first line names the columns."""
    rows = text_lines(path)
    return range(rows.start - 1, rows.stop)


def _table(name: str, lines: list[str], rows: Callable[[Path], range | None]) -> Target:
    def read(folder: Path) -> str:
        return checked(folder, import_data(folder / name), rows(folder / name))

    data = "\n".join([*lines, ""]).encode()
    return Target(name.rpartition(".")[2], {**clips(), name: data}, read, changed=[name])


def csv() -> Target:
    """A table with commas and quotes."""
    rows = [
        f'{i},clips/{i}.wav,"{t}, ""yes""",spk{n % 3}'
        for n, (i, t) in enumerate(zip(IDS, TEXTS, strict=True))
    ]
    return _table("list.csv", ["key,source,target,speaker", *rows], lambda _: None)


def tsv() -> Target:
    """A table with tabs, as Common Voice has them."""
    rows = [f"{i}\tclips/{i}.wav\t{t}\t0.0\t0.4" for i, t in zip(IDS, TEXTS, strict=True)]
    return _table(
        "list.tsv",
        ["id\tpath\tsentence\tstart\tend", *rows],
        without_heading,
    )


def jsonl() -> Target:
    """JSON lines, as NeMo has them."""
    rows = [
        json.dumps(
            {"audio_filepath": f"clips/{i}.wav", "text": t, "offset": 0.1, "duration": 0.3, "id": i}
        )
        for i, t in zip(IDS, TEXTS, strict=True)
    ]
    return _table("list.jsonl", rows, text_lines)


def kaldi() -> Target:
    """A Kaldi data directory with segments."""
    files = {
        "wav.scp": [f"{i} clips/{i}.wav" for i in IDS],
        "segments": [f"{i}-1 {i} 0.0 0.45" for i in IDS],
        "text": [f"{i}-1 {t}" for i, t in zip(IDS, TEXTS, strict=True)],
        "utt2spk": [f"{i}-1 spk{n % 3}" for n, i in enumerate(IDS)],
    }
    data = {name: "\n".join([*lines, ""]).encode() for name, lines in files.items()}

    def read(folder: Path) -> str:
        named = set()
        places = "segments" if text_lines(folder / "segments").start else "wav.scp"
        for name in ("text", places):
            lines = (folder / name).read_bytes().decode("utf-8-sig", "replace").split("\n")
            named |= {re.split("[ \t]", line.strip(" \t\r"))[0] for line in lines if line.strip()}
        return checked(folder, import_data(folder), range(len(named), len(named) + 1))

    return Target("kaldi", {**clips(), **data}, read, changed=list(files))


def layout() -> Target:
    """A split in LibriSpeech layout."""
    folder = "split/19/198"
    files = {f"{folder}/19-198-{n}.wav": audio() for n in range(5)}
    text = "".join(f"19-198-{n} {TEXTS[n].upper()}\n" for n in range(5)).encode()
    name = f"{folder}/19-198.trans.txt"

    def read(root: Path) -> str:
        return checked(root, import_data(root / "split"), text_lines(root / name))

    return Target("layout", {**files, name: text}, read, changed=[name])


def lhotse() -> Target:
    """Lhotse recordings and supervisions."""
    recordings = [
        {"id": i, "sources": [{"type": "file", "channels": [0], "source": f"clips/{i}.wav"}],
         "sampling_rate": 8000, "num_samples": 4000, "duration": 0.5, "channel_ids": [0]}
        for i in IDS
    ]  # fmt: skip
    supervisions = [
        {"id": f"{i}-s", "recording_id": i, "start": 0.0, "duration": 0.5, "channel": 0, "text": t,
         "speaker": "x", "custom": {"mood": "calm"}}
        for i, t in zip(IDS, TEXTS, strict=True)
    ]  # fmt: skip
    files = {"recordings.jsonl": recordings, "supervisions.jsonl": supervisions}
    data = {
        name: "".join(json.dumps(r) + "\n" for r in rows).encode() for name, rows in files.items()
    }

    def read(folder: Path) -> str:
        path = folder / "supervisions.jsonl"
        return checked(folder, import_data(path), text_lines(path))

    return Target("lhotse", {**clips(), **data}, read, changed=list(files))


def cuts() -> Target:
    """Lhotse cuts."""
    rows = [
        {"id": f"{i}-c", "start": 0.0, "duration": 0.5, "channel": 0, "type": "MonoCut",
         "supervisions": [{"id": f"{i}-s", "recording_id": i, "start": 0.0, "duration": 0.5,
                           "channel": 0, "text": t}],
         "recording": {"id": i, "sources": [{"type": "file", "channels": [0],
                                             "source": f"clips/{i}.wav"}],
                       "sampling_rate": 8000, "num_samples": 4000, "duration": 0.5}}
        for i, t in zip(IDS, TEXTS, strict=True)
    ]  # fmt: skip
    return _table("cuts.jsonl", [json.dumps(row) for row in rows], lambda _: None)


TARGETS: dict[str, Callable[[], Target]] = {
    "csv": csv,
    "tsv": tsv,
    "jsonl": jsonl,
    "kaldi": kaldi,
    "layout": layout,
    "lhotse": lhotse,
    "cuts": cuts,
    **documents.TARGETS,
    **language.TARGETS,
    **packed.TARGETS,
    **shar.TARGETS,
}
