"""What ``--set`` changed in the variant whose results are recorded, in training or in decoding."""

from __future__ import annotations

from pathlib import Path

from lmu_asr.config import Config, options
from lmu_asr.config_files import load_config
from lmu_asr.config_paths import is_path
from lmu_asr.errors import ConfigError

# These change where and how fast things are done, not what comes out.
SHAPING = ("download", "features", "lang", "graph", "train", "decode")
SILENT = {o.key for o in options() if not o.is_of(*SHAPING)} - {"train.shar_window"} | {
    *("graph.fsa", "decode.tag", "decode.bootstrap", "decode.max_duration"),
    *("corpus.id", "corpus.source", "corpus.mirror", "corpus.download_dir"),
}
TRAINED = ("seed", "augment", "model", "train")


def marked_overrides(config: Config, exp_dir: Path) -> tuple[str, ...]:
    """Return the overrides that a row of results must show, ``key=value``; those of training first.

    Args:
        config: the configuration of the decode.
        exp_dir: its ``config.yaml`` tells how the model was trained, perhaps by another call.
    """
    now, then = _by_key(config), _by_key(_trained_with(exp_dir) or config)
    found = {key: text for key, text in now.items() if key.split(".")[0] not in TRAINED}
    found |= {key: text for key, text in then.items() if key.split(".")[0] in TRAINED}
    keys = sorted(found, key=lambda key: (key.split(".")[0] not in TRAINED, key))
    return tuple(f"{key}={found[key]}" for key in keys)


def _by_key(config: Config) -> dict[str, str]:
    """The overrides that can change a result; a path by its last part."""
    pairs = (override.partition("=")[::2] for override in config.overrides)
    return {
        key: Path(text).name if is_path(key, text) else text
        for key, text in pairs
        if key not in SILENT
    }


def _trained_with(exp_dir: Path) -> Config | None:
    """The configuration of the training; None where there is none that this version reads."""
    try:
        return load_config(exp_dir / "config.yaml")
    except ConfigError:
        return None
