"""The trained model of an experiment directory, checked against the lang directory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from lmu_asr.checkpoints.checkpoint import Checkpoint, load_checkpoint
from lmu_asr.config import Config, DecodeConfig, FeaturesConfig
from lmu_asr.errors import CheckpointError
from lmu_asr.files import fingerprint, read_json, sha256_file
from lmu_asr.lang.lang import Lang
from lmu_asr.models.describe import count_parameters
from lmu_asr.models.inference.quant import is_quantized, pack_for_streaming, quantize
from lmu_asr.models.system import SpeechModel, build_model, load_model, load_weights


@dataclass(frozen=True)
class Trained:
    """A model with the hash of the file that it came from."""

    model: SpeechModel
    sha256: str
    path: Path

    @property
    def parameters(self) -> int:
        """Trained values."""
        return count_parameters(self.model)

    def latency_ms(self, features: FeaturesConfig) -> float | None:
        """Milliseconds from the start of an output frame until it can be computed.

        The waiting that the model itself demands, without computing time and without the chunks
        that a caller may gather. None for a model that needs the whole utterance.
        """
        frames = self.model.encoder.latency_frames
        if not self.model.streaming or math.isinf(frames):
            return None
        # the last frame is known when its window ends, a frame length after its start
        return (frames - 1) * features.frame_shift_ms + features.frame_length_ms


def checkpoint_path(config: Config, exp_dir: Path) -> Path:
    """Return the file that ``decode.checkpoint`` names.

    Raises:
        CheckpointError: there is no such file; the message lists those there are.
    """
    name = config.decode.checkpoint
    plain = name in ("best", "last", "averaged")
    path = exp_dir / f"{name}.pt" if plain else Path(name)
    if not path.is_file():
        have = ", ".join(sorted(p.name for p in exp_dir.glob("*.pt"))) or "none"
        raise CheckpointError(
            f"{path}: no such checkpoint (decode.checkpoint={name}); {exp_dir} has {have}; "
            "train first (stage 4)"
        )
    return path


def load_trained(config: Config, exp_dir: Path, lang: Lang) -> Trained:
    """Load the model that ``decode.checkpoint`` names, a training checkpoint or a saved model.

    Raises:
        CheckpointError: missing or damaged, of another model, or of another vocabulary.
    """
    path = checkpoint_path(config, exp_dir)
    if path.suffix == ".safetensors":
        model = load_model(path)
    else:
        model = _from_checkpoint(config, path, lang)
    if model.vocab_size != lang.vocab_size:
        raise CheckpointError(
            f"{path}: trained with {model.vocab_size} tokens, {lang.dir} has {lang.vocab_size}: "
            "decode with the lang directory that it was trained with, or train again"
        )
    return Trained(_prepared(model.eval(), config.decode), sha256_file(path), path)


def _prepared(model: SpeechModel, decode: DecodeConfig) -> SpeechModel:
    """Return the model with the weights that ``decode.weights`` and streaming on a CPU ask for."""
    if decode.weights == "int8" and not is_quantized(model):
        return quantize(model)
    # packed weights are for the CPU and for short chunks, which are bound by reading weights
    if decode.streaming and not torch.cuda.is_available() and not is_quantized(model):
        return pack_for_streaming(model)
    return model


def _from_checkpoint(config: Config, path: Path, lang: Lang) -> SpeechModel:
    checkpoint = load_checkpoint(path)
    _check_tokens(checkpoint, lang)
    model = build_model(config.model, config.features.num_mel_bins, lang.vocab_size)
    load_weights(model, checkpoint.weights, str(path))
    return model


def _check_tokens(checkpoint: Checkpoint, lang: Lang) -> None:
    """Refuse a checkpoint that says it was trained on other tokens, even as many of them."""
    saved = checkpoint.meta.get("identity", {}).get("tokens")
    tokens = fingerprint([lang.unit, lang.tokens])
    if saved is not None and saved != tokens:
        raise CheckpointError(
            f"{checkpoint.path}: trained on other tokens ({saved[:12]}) than {lang.dir} has "
            f"({tokens[:12]}): decode with the lang directory that it was trained with"
        )


def training_seconds(exp_dir: Path) -> float:
    """Return the wall time of training from ``training.json``; 0 where it is not known."""
    path = exp_dir / "training.json"
    if not path.is_file():
        return 0.0
    try:
        return float(read_json(path).get("seconds", 0.0))
    except (OSError, TypeError, ValueError, AttributeError, OverflowError):
        return 0.0
