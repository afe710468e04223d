"""Prepared data and a lang directory, made in milliseconds: what stages 1 and 2 would leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lmu_asr.config import Config, LangConfig
from lmu_asr.config_files import load_config
from lmu_asr.files import write_json, write_jsonl
from lmu_asr.lang.prepare import prepare_lang

BINS = 8
WORDS = ("ab", "ba", "aab", "b")
OPTIONS = [
    f"features.num_mel_bins={BINS}",
    "model.dim=16",
    "model.num_layers=1",
    "model.lmu.thetas=[4]",
    "model.lmu.memory_order=4",
    "model.subsampling_channels=4",
    "train.epochs=2",
    "train.max_duration=2.5",
    "train.warmup_steps=2",
    "train.tensorboard=false",
    "train.num_workers=0",
    "train.log_every=1",
    "augment.time_mask_frames=5",
    "augment.freq_mask_bins=3",
]


def tiny_config(*options: str) -> Config:
    """Configuration that fits the data."""
    return load_config(None, [*OPTIONS, *options])


def make_data(root: Path) -> tuple[Path, Path]:
    """Write training and development splits and a lang directory; returns both directories."""
    data_dir, lang_dir = root / "data", root / "lang"
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("dev", 4)):
        cuts = [_cut(data_dir, f"{split}-{index}", rng) for index in range(count)]
        write_jsonl(data_dir / f"{split}_cuts.jsonl.gz", cuts)
        lines = [f"{cut['id']} {cut['supervisions'][0]['text']}\n" for cut in cuts]
        (data_dir / f"{split}_text").write_text("".join(lines))
    write_json(data_dir / "cmvn.json", {"mean": [0.0] * BINS, "std": [1.0] * BINS})
    prepare_lang(LangConfig(), [" ".join(WORDS)], [], lang_dir)
    return data_dir, lang_dir


def _cut(data_dir: Path, name: str, rng: np.random.Generator) -> dict[str, Any]:
    words = [WORDS[index] for index in rng.integers(0, len(WORDS), 2)]
    frames = int(rng.integers(50, 90))
    # one training utterance is too short for its text
    words = ["aaaa"] * 4 if name == "train-3" else words
    path = data_dir / f"feats/{name[:2]}/{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rng.normal(size=(frames, BINS)).astype(np.float32))
    features = {
        "type": "kaldi-fbank",
        "num_frames": frames,
        "num_features": BINS,
        "storage_type": "numpy_files",
        "storage_path": "feats",
        "storage_key": f"{name[:2]}/{name}.npy",
    }
    supervision = {"id": name, "text": " ".join(words)}
    return {
        "id": name,
        "duration": frames / 100,
        "features": features,
        "supervisions": [supervision],
    }
