"""Common Voice: sentences read by volunteers, https://commonvoice.mozilla.org.

The user downloads a language's archive, which asks for an e-mail address, and names the unpacked
directory: ``{train,dev,test}.tsv`` with ``clips/*.mp3`` beside them. Ardila et al. 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.splits import join_splits
from lmu_asr.corpora.text import PLAIN
from lmu_asr.data.importing.tables import table_rows
from lmu_asr.data.manifests import Utterance, from_utterances
from lmu_asr.errors import DataError
from lmu_asr.files import files_below


class CommonVoice:
    """One language; the splits are its tables: train, dev, test, validated."""

    name = "commonvoice"
    language = ""
    normalize = PLAIN
    license_note = "Common Voice: CC0, https://commonvoice.mozilla.org/datasets"

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Say how to have it: there is no address without a form.

        Raises:
            DataError: always.
        """
        raise DataError(
            "Common Voice is downloaded by hand: choose a language at "
            "https://commonvoice.mozilla.org/datasets, accept its terms, unpack the archive, and "
            "name the directory that holds train.tsv with --set corpus.source=DIR"
        )

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Read the tables that ``config`` names (see :class:`lmu_asr.corpora.base.Corpus`)."""
        tables = sorted(files_below(source, "train.tsv"))
        root = tables[0].parent if tables else source
        return join_splits(config, lambda part: from_utterances(_read(root / f"{part}.tsv"), part))


def _read(table: Path) -> Iterator[Utterance]:
    if not table.is_file():
        raise DataError(f"{table}: no such table")
    for where, row in table_rows(table):
        missing = [name for name in ("client_id", "path", "sentence") if name not in row]
        if missing:
            raise DataError(f"{where}: no column '{missing[0]}'; found {', '.join(row)}")
        if not row["path"]:
            raise DataError(f"{where}: 'path' (the clip) is empty")
        path = table.parent / "clips" / row["path"]
        path = path if path.suffix else path.with_suffix(".mp3")
        yield Utterance(path.stem, path, row["sentence"], row["client_id"])


CORPUS = CommonVoice()
