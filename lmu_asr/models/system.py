"""The model that training, decoding and streams use: normalisation, encoder, head; its files.

Legend: N batch, T input frames, T' frames after subsampling, F features, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lmu_asr.config import ModelConfig
from lmu_asr.config_files import model_from_dict
from lmu_asr.errors import CheckpointError, ConfigError, ModelError
from lmu_asr.files import atomic_path, atomic_write_text
from lmu_asr.models.encoder import build_encoder
from lmu_asr.models.head import Targets, build_head
from lmu_asr.models.inference.quant import is_quantized, quantize
from lmu_asr.models.layers import length_mask
from lmu_asr.models.mixers import State
from lmu_asr.yaml_files import read_yaml

MIN_STD = 1e-3
LARGEST_SIZE = 10_000_000  # of an input or a vocabulary: a damaged file must not take all memory


class SpeechModel(nn.Module):
    """Features to what the head makes of them: offline, as a stream, and to a loss."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, input_dim: int, vocab_size: int) -> None:
        """``input_dim``: features F of a frame; ``vocab_size``: V, blank included."""
        super().__init__()
        if vocab_size < 2:
            raise ModelError(f"vocabulary of {vocab_size}: want the blank and at least one token")
        self.config, self.input_dim, self.vocab_size = config, input_dim, vocab_size
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("std", torch.ones(input_dim))
        self.encoder = build_encoder(config, input_dim)
        self.head = build_head(config, vocab_size)

    @property
    def subsampling_factor(self) -> int:
        """Input frames to one output frame."""
        return self.encoder.subsampling_factor

    @property
    def streaming(self) -> bool:
        """Whether :meth:`step` works."""
        return self.encoder.streaming and self.config.normalize != "utterance"

    def output_lens(self, lens: Tensor) -> Tensor:
        """Output frames (N,) of inputs of ``lens`` (N,) frames."""
        return self.encoder.output_lens(lens)

    def set_cmvn(self, mean: Tensor, std: Tensor) -> None:
        """Set mean and standard deviation (F,) of each feature over the training split.

        Raises:
            ModelError: the shapes do not fit, or a value is not finite.
        """
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != (self.input_dim,) or not bool(torch.isfinite(value).all()):
                raise ModelError(
                    f"cmvn {name} of shape {tuple(value.shape)}: want {self.input_dim} finite values"
                )
        self.mean.copy_(mean)
        # a bin that never changes would divide by zero
        self.std.copy_(std.clamp(min=MIN_STD))

    def normalize(self, x: Tensor, lens: Tensor | None) -> Tensor:
        """Normalise features x (N, T, F) as ``config.normalize`` says."""
        if self.config.normalize == "global":
            return (x - self.mean) / self.std
        if self.config.normalize == "utterance":
            return normalize_utterance(x, lens)
        return x

    @overload
    def forward(self, features: Tensor, lens: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self, features: Tensor, lens: Tensor | None, targets: Targets
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def forward(
        self, features: Tensor, lens: Tensor | None = None, targets: Targets | None = None
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Map features to the head's outputs, and with targets to losses.

        Args:
            features: (N, T, F); of training, the views one after another: (views * N, T, F).
            lens: (N,) frames; None: all of them.
            targets: of N utterances.

        Returns:
            The outputs (N, T', S) and their lengths (N,); those past a length have no meaning.
            With ``targets`` the losses (N,) float32 come first, summed over each utterance.
        """
        features = self.normalize(features, lens)
        taps = self.head.taps if self.training and targets is not None else ()
        encoded, y_lens = self.encoder.outputs(features, lens, taps)
        outputs = self.head(torch.cat(encoded) if taps else encoded[0])
        if targets is None:
            return outputs, y_lens
        # the loss is a part of the forward pass: sharded parameters are whole only in there
        return self.head.loss(outputs, y_lens.repeat(len(encoded)), targets), outputs, y_lens

    def init_state(self, n: int, device: torch.device | str | None = None) -> State:
        """State of ``n`` streams before their first frame.

        Raises:
            ModelError: this model does not stream.
        """
        if self.config.normalize == "utterance":
            raise ModelError(
                "model.normalize=utterance needs the whole utterance and cannot stream: "
                "train with model.normalize=global"
            )
        return self.encoder.init_state(n, device)

    def step(self, chunk: Tensor, state: State) -> tuple[Tensor, State]:
        """Take the next frames (N, t, F), any t; return the outputs (N, t', S) and the state."""
        y, state = self.encoder.step(self.normalize(chunk, None), state)
        return self.head(y), state

    def flush(self, state: State) -> tuple[Tensor, State]:
        """End the streams: return the outputs still owed, and a fresh state."""
        y, state = self.encoder.flush(state)
        return self.head(y), state


def normalize_utterance(x: Tensor, lens: Tensor | None) -> Tensor:
    """Give each feature of each utterance in x (N, T, F) mean 0 and variance 1."""
    T = x.shape[1]
    if lens is None:
        lens = torch.full((x.shape[0],), T, device=x.device)
    valid = length_mask(lens, T).to(x.dtype)[..., None]  # (N, T, 1)
    count = lens.clamp(min=1).to(x.dtype)[:, None, None]
    # two passes: the difference of two large sums of squares would lose its digits
    centred = x - (x * valid).sum(1, keepdim=True) / count
    variance = (centred.square() * valid).sum(1, keepdim=True) / count
    return centred / variance.sqrt().clamp(min=MIN_STD)


def build_model(
    config: ModelConfig,
    input_dim: int,
    vocab_size: int,
    cmvn: tuple[Tensor, Tensor] | None = None,
) -> SpeechModel:
    """Build the model that ``config`` describes; ``cmvn``: mean and std (F,) of the features.

    Raises:
        ModelError: the options, or the shapes of ``cmvn``, do not fit.
    """
    model = SpeechModel(config, input_dim, vocab_size)
    if cmvn is not None:
        model.set_cmvn(*cmvn)
    return model


def save_model(model: SpeechModel, path: str | Path) -> None:
    """Write weights to ``path`` (safetensors) and what builds the model to ``path`` + ``.yaml``."""
    path = Path(path)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary))
    about = {
        "input_dim": model.input_dim,
        "vocab_size": model.vocab_size,
        "weights": "int8" if is_quantized(model) else "float",
        "model": model.config.to_dict(),
    }
    atomic_write_text(_about_path(path), yaml.safe_dump(about, sort_keys=False))


def load_model(path: str | Path, device: torch.device | str = "cpu") -> SpeechModel:
    """Read a model written by :func:`save_model`, ready for evaluation.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights are of another model.
    """
    path = Path(path)
    about = _read_about(_about_path(path))
    model = build_model(_config_of(about, path), about["input_dim"], about["vocab_size"])
    if about.get("weights") == "int8":
        # before loading, since int8 weights have other names and shapes
        model = quantize(model)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights")
    try:
        tensors = load_file(str(path), device="cpu")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from error
    load_weights(model, tensors, str(path))
    return model.to(device).eval()


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy ``tensors`` into ``model``; every name and shape must agree.

    Raises:
        CheckpointError: names the first tensor that is missing, unknown or of another shape.
    """
    # checked by hand, since torch's own message lists every tensor at once
    own = model.state_dict()
    for name in own:
        if name not in tensors:
            raise CheckpointError(f"{source}: has no tensor {name}: weights of another model")
    for name, value in tensors.items():
        if name not in own:
            raise CheckpointError(f"{source}: tensor {name} is not in the model: another model's")
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise CheckpointError(f"{source}: {name} is no plain tensor")
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"{source}: tensor {name} has shape {tuple(value.shape)}, the model "
                f"{tuple(own[name].shape)}: weights of another model"
            )
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise CheckpointError(f"{source}: weights that cannot be copied: {error}") from error


def _about_path(path: Path) -> Path:
    return path.with_name(path.name + ".yaml")


def _read_about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; it says what model the weights beside it are of")
    about = read_yaml(path, CheckpointError)
    if not isinstance(about, dict) or {"input_dim", "vocab_size", "model"} - set(about):
        raise CheckpointError(f"{path}: want the keys input_dim, vocab_size and model")
    for name in ("input_dim", "vocab_size"):
        if type(about[name]) is not int or not 0 < about[name] <= LARGEST_SIZE:
            raise CheckpointError(
                f"{path}: {name}={about[name]!r}: want a number, 1 to {LARGEST_SIZE}"
            )
    return about


def _config_of(about: dict[str, Any], path: Path) -> ModelConfig:
    try:
        return model_from_dict(about["model"], str(path))
    except ConfigError as error:
        raise CheckpointError(f"{error}: not a model of this version") from error
