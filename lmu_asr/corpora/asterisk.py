"""Asterisk's English prompts: some 560 utterances of one voice, from Debian's own packages.

Real human speech from a package registry: recorded by Allison Smith, 16 kHz G.722, with the text
in ``core-sounds-en.txt``. The packages are fetched by apt and unpacked without root.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora.base import Manifests
from lmu_asr.corpora.own import split_manifests
from lmu_asr.corpora.render import wav_bytes
from lmu_asr.corpora.text import normalize_english
from lmu_asr.data.audio.g722 import decode_g722
from lmu_asr.data.manifests import Utterance, from_utterances
from lmu_asr.errors import DataError
from lmu_asr.files import atomic_write_bytes
from lmu_asr.progress import progress
from lmu_asr.text_lines import text_lines

PACKAGES = ("asterisk-core-sounds-en-g722", "asterisk-core-sounds-en")
MOST_BYTES = 20 * 8000  # the few longer prompts are menus
AT_ONCE = 600
DIGITS = dict(
    enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
)


class Asterisk:
    """Telephone prompts; dev and test are a tenth each, by a hash of the name."""

    name = "asterisk"
    language = "en"
    license_note = "Asterisk core sounds: CC BY-SA 3.0, voice Allison Smith"

    def download(self, config: CorpusConfig, target: Path, seed: int) -> None:
        """Fetch the packages with apt, or take them from ``corpus.download_dir``; decode them."""
        target.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES:
            _unpack_package(_package(package, config.download_dir, target), target)
        files = [p for p in sorted(target.rglob("*.g722")) if p.stat().st_size <= MOST_BYTES]
        missing = [p for p in files if not _wav(target, p).exists()]
        for start in progress(range(0, len(missing), AT_ONCE), "decoding G.722"):
            some = missing[start : start + AT_ONCE]
            decoded = decode_g722([p.read_bytes() for p in some])
            for path, samples in zip(some, decoded, strict=True):
                atomic_write_bytes(_wav(target, path), wav_bytes(samples))

    def manifests(self, config: CorpusConfig, source: Path) -> dict[str, Manifests]:
        """Return ``train``, ``dev`` and ``test`` (see :class:`lmu_asr.corpora.base.Corpus`)."""
        texts = next(iter(sorted(source.rglob("core-sounds-en.txt.gz"))), None)
        if texts is None:
            raise DataError(f"{source}: no core-sounds-en.txt.gz in it or below")
        spoken = dict(_spoken(texts))
        utterances = []
        for name, text in spoken.items():
            path = source / "wav" / f"{name.replace('/', '-')}.wav"
            if path.is_file() and self.normalize(text):  # sounds without words have none
                utterances.append(Utterance(path.stem, path, text, "allison"))
        return split_manifests(from_utterances(utterances), config)

    def normalize(self, text: str) -> str:
        """Digits and keys spelled, descriptions in brackets dropped, then as for English."""
        text = text.replace("#", " pound ").replace("*", " star ")
        text = re.sub(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>", " ", text)
        text = re.sub(r"\b\d\b", lambda match: DIGITS[int(match.group())], text)
        return normalize_english(text)


def _spoken(texts: Path) -> Iterator[tuple[str, str]]:
    """Yield prompts and what they say: ``<name>: <text>`` a line, ``;`` begins a remark."""
    for number, line in text_lines(texts):
        if line.strip() and not line.startswith(";"):
            name, colon, text = line.partition(":")
            if not colon:
                raise DataError(f"{texts}:{number}: want '<name>: <text>', got '{line[:80]}'")
            yield name.strip(), text.strip()


def _wav(target: Path, path: Path) -> Path:
    """Place of a decoded prompt: ``digits/1.g722`` becomes ``wav/digits-1.wav``."""
    voice = next(p for p in path.parents if p.name.startswith("en_"))
    name = "-".join(path.relative_to(voice).with_suffix("").parts)
    return target / "wav" / f"{name}.wav"


def _package(name: str, download_dir: str, target: Path) -> Path:
    for folder in filter(None, (download_dir, str(target))):
        if found := sorted(Path(folder).glob(f"{name}_*.deb")):
            return found[-1]
    if shutil.which("apt-get") is None:
        raise DataError(
            f"there is no apt-get here: fetch {' and '.join(PACKAGES)} from Debian or Ubuntu and "
            "name their directory with --set corpus.download_dir=DIR"
        )
    command = ["apt-get", "download", name]
    result = subprocess.run(command, cwd=target, capture_output=True, text=True)
    found = sorted(target.glob(f"{name}_*.deb"))
    if result.returncode or not found:
        raise DataError(
            f"{' '.join(command)} failed: {result.stderr.strip()}; refresh the lists with apt-get "
            "update, or name a directory that has the package: --set corpus.download_dir=DIR"
        )
    return found[-1]


def _unpack_package(package: Path, target: Path) -> None:
    command = ["dpkg-deb", "-x", str(package.resolve()), str(target)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        if package.parent == target:  # cut short by a killed run, so that the next one fetches it
            package.unlink(missing_ok=True)
        raise DataError(f"{package}: cannot be unpacked: {reason.strip()}; run again") from error


CORPUS = Asterisk()
