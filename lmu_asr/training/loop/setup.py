"""What a process does before it trains: threads, determinism, precision, the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import torch
from torch import nn

from lmu_asr.config import Config
from lmu_asr.errors import DataError, TrainingError
from lmu_asr.files import read_json
from lmu_asr.models.system import SpeechModel, build_model
from lmu_asr.torch_versions import keep_empty_memory_empty
from lmu_asr.training.loop.finetune import start_from
from lmu_asr.training.loop.optim import count_parameters
from lmu_asr.training.loop.state import seed_everything
from lmu_asr.training.parallel.processes import World, log_main, set_threads

CHANGES_NO_OUTPUT = ("describe",)

KERNELS_KEPT = 32  # of oneDNN: those of one batch; torch would keep 1024, of every length it met


def prepare_process(config: Config, world: World) -> None:
    """Set threads, the kernels kept, determinism and the seed of the initial weights."""
    check_accelerate(config, world)
    set_threads(world)
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(KERNELS_KEPT))  # both are read at the first product
    torch.set_flush_denormal(True)  # long memories decay into numbers that slow a CPU many times
    if config.train.deterministic:
        # cuBLAS is deterministic only with a workspace of fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # warn only: the backward pass of ctc_loss has no deterministic form on a GPU
        torch.use_deterministic_algorithms(True, warn_only=True)
        keep_empty_memory_empty()
    elif world.device.type == "cuda":
        # chooses kernels by their time, so two runs may differ in the last bits
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    # without the rank: every process draws the same weights, so none need be sent
    seed_everything(config.seed, "model")


def check_accelerate(config: Config, world: World) -> None:
    """Compare what a configuration of Accelerate asks for with the options of this run.

    Raises:
        TrainingError: it asks for DeepSpeed or FSDP where ``train.strategy`` does not.
    """
    for name in ("DeepSpeed", "FSDP"):
        wanted = os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() == "true"
        if wanted and config.train.strategy != name.lower():
            raise TrainingError(
                f"Accelerate asks for {name}, train.strategy={config.train.strategy}: set "
                f"train.strategy={name.lower()}, or leave it out of Accelerate's configuration"
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", config.train.precision):
        log_main(
            world,
            "Accelerate's mixed_precision=%s is not read; train.precision=%s holds",
            precision,
            config.train.precision,
        )


def make_model(config: Config, data_dir: Path, vocab_size: int, tokens: str = "") -> SpeechModel:
    """Build the model of the configuration, with the normalisation of the training split.

    ``tokens``: fingerprint of the tokens, by which weights to start from keep their output layer.

    Raises:
        DataError: ``cmvn.json`` is missing.
        ConfigError, ModelError, CheckpointError: the options, or the weights of
            ``train.init_from``, do not fit.
    """
    path = data_dir / "cmvn.json"
    if not path.is_file():
        raise DataError(f"{path}: missing; run stage 1 (features) first")
    try:
        statistics = read_json(path)
        cmvn = (torch.tensor(statistics["mean"]), torch.tensor(statistics["std"]))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{path}: not the statistics of features ({error}); run stage 1") from error
    model = build_model(config.model, config.features.num_mel_bins, vocab_size, cmvn)
    if config.train.init_from:
        start_from(model, config.train.init_from, tokens)
    return model


def synchronize_batchnorm(model: SpeechModel, world: World) -> SpeechModel:
    """Let batch normalisation see all processes (``train.sync_batchnorm``); says where it cannot."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        log_main(world, "train.sync_batchnorm: this model has no batch normalisation")
        return model
    if world.device.type != "cuda" or world.world_size == 1:
        log_main(world, "train.sync_batchnorm: needs several GPUs; each process has its own")
        return model
    return cast(SpeechModel, nn.SyncBatchNorm.convert_sync_batchnorm(model))


def describe(config: Config, model: SpeechModel, world: World) -> None:
    """Log what is going to be trained, and on what."""
    log_main(
        world,
        "%s encoder, %.2f M parameters, %d tokens; %d process(es) on %s, %d threads, %s",
        config.model.encoder,
        count_parameters(model) / 1e6,
        model.vocab_size,
        world.world_size,
        world.device.type,
        torch.get_num_threads(),
        choose_precision(config.train.precision, world) or torch.float32,
    )


def choose_precision(name: str, world: World) -> torch.dtype | None:
    """Autocast type of ``train.precision`` on this device, or None for float32."""
    gpu = world.device.type == "cuda"
    if name == "auto":
        return torch.bfloat16 if gpu and torch.cuda.is_bf16_supported() else None
    if name == "fp16" and not gpu:
        log_main(world, "train.precision=fp16 needs a GPU: training in float32")
        return None
    return {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
