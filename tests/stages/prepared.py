"""A corpus as stage 1 leaves it, of three sentences, for stages that need no audio."""

from __future__ import annotations

from pathlib import Path

from lmu_asr.config import Config
from lmu_asr.config_paths import with_value
from lmu_asr.stages import load_stage
from lmu_asr.stages.common import Context
from lmu_asr.stages.stamp import Stamp

TEXTS = ["two red roses", "red two", "roses red"]
LEXICON = (
    "two T UW\nred R EH D\nroses R OW Z\ntoo T UW\nto T UW\nread R EH D\nrose R OW Z\nzoo Z UW\n"
)


def context_of(tmp_path: Path, unit: str = "phone", **options: object) -> Context:
    """A prepared corpus, as if stage 1 had run; ``options`` by dotted key with two underscores."""
    config = Config()
    values = {"lang__unit": unit, "lang__oov": "drop", "lm__order": 2, **options}
    if unit == "phone":
        values.setdefault("lang__lexicon", str(tmp_path / "lexicon.txt"))
    for key, value in values.items():
        config = with_value(config, key.replace("__", "."), value)
    context = Context(config, tmp_path / "data", tmp_path / "exp", "", nj=1)
    features = load_stage("features").stamp_path(context)
    if not features.exists():
        (tmp_path / "lexicon.txt").write_text(LEXICON)
        context.features_dir.mkdir(parents=True)
        lines = (f"u{number} {text}\n" for number, text in enumerate(TEXTS))
        (context.features_dir / "train_text").write_text("".join(lines))
        Stamp("key", {}, {}).save(features)
    return context


def write(path: Path, text: str) -> str:
    """Write a text file and return its name, as an option takes it."""
    path.write_text(text)
    return str(path)
