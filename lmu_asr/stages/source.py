"""Whose data a directory below data/ and exp/ holds: one source a name, and no source written to."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from lmu_asr.errors import StageError
from lmu_asr.files import atomic_write_text, read_json
from lmu_asr.remote import is_remote
from lmu_asr.stages.context import Context

RECORD = "source.json"
OURS = re.compile(r"source|s3|pipes|source\.json|fbank\d.*|lang-.*|\..*\.(lock|stamp\.json)")


def check_source(context: Context) -> None:
    """Refuse directories of a run that are the user's own, or that hold another source's data.

    Raises:
        StageError: the source would be written to, the directory is somebody else's, or it was
            made from another source; the message offers another name.
    """
    _check_places(context)
    _check_apart(context)
    _check_ours(context)
    own = _identity(context)
    others = {
        path: found for path in _records(context) if (found := _read(path)) not in (None, own)
    }
    if others:
        raise StageError(
            f"{context.corpus_id}: this name has the data of {_words(next(iter(others.values())))}, "
            f"not of {_words(own)}: give these another name with --set corpus.id=NAME; if the same "
            f"data have only moved, remove {' and '.join(map(str, others))}"
        )


def claim_source(context: Context) -> None:
    """Record the source of a run beside what was made from it."""
    for path in _records(context):
        if not path.is_file():
            # in ASCII: the name of a source need not be UTF-8
            atomic_write_text(path, json.dumps(_identity(context), indent=2) + "\n")


def source_name(source: str) -> str:
    """Return the name for ``corpus.id`` that a source's last part gives."""
    last = (
        source.rstrip("/").rpartition("/")[2] if is_remote(source) else Path(source).resolve().name
    )
    name = re.sub(r"[^\w.+,=@ -]", "_", last.split(".")[0] or last.strip(".").split(".")[0])
    return name.lstrip("-+,=@ ")[:100].rstrip() or "own"


def _records(context: Context) -> list[Path]:
    return [context.corpus_dir / RECORD, context.results_dir / RECORD]


def _identity(context: Context) -> dict[str, str]:
    """The source; of a corpus that is fetched or made, its name."""
    source = context.config.corpus.source
    if not source:
        return {"corpus": context.config.corpus.name}
    return {"source": source.rstrip("/") if is_remote(source) else str(Path(source).resolve())}


def _words(identity: dict[str, str] | None) -> str:
    return " ".join(f"{key} {value}" for key, value in (identity or {}).items())


def _read(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    try:
        found = read_json(path)
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path}: not valid JSON ({error}); remove it") from error
    if not isinstance(found, dict):
        raise StageError(f"{path}: want a source, got {json.dumps(found)[:60]}; remove it")
    return {str(key): str(value) for key, value in found.items()}


def _check_places(context: Context) -> None:
    """Refuse directories that cannot be made, since a file stands in their place."""
    for place, option in ((context.corpus_dir, "--data-dir"), (context.results_dir, "--exp-dir")):
        # lexists: a link that leads nowhere stands in the way too
        there = next(path for path in (place, *place.absolute().parents) if os.path.lexists(path))
        if not there.is_dir():
            raise StageError(f"{there}: is no directory: choose another {option}")


def _check_apart(context: Context) -> None:
    """Refuse to work inside the user's data, and around them."""
    if not context.has_own_copy:
        return
    source = context.source_dir.resolve()
    for place, option in ((context.corpus_dir, "--data-dir"), (context.results_dir, "--exp-dir")):
        where = place.resolve()
        if where.is_relative_to(source) or source.is_relative_to(where):
            inside = where.parent.is_relative_to(source)  # then no name helps
            advice = "" if inside else "give it another name with --set corpus.id=NAME, or "
            raise StageError(
                f"{source}: a source is never written to, but this run would write to {where}: "
                f"{advice}take another {option}"
            )


def _check_ours(context: Context) -> None:
    """Refuse a directory that holds files, none of which a stage can have made."""
    place = context.corpus_dir
    if not place.is_dir():
        return
    names = [path.name for path in place.iterdir()]
    if names and not any(OURS.fullmatch(name) for name in names):
        raise StageError(
            f"{place}: has files of another origin ({min(names)}), and prepared data would go there: "
            "give these data another name with --set corpus.id=NAME, or take another --data-dir"
        )
