"""The options of training: augmentation, optimisation, checkpoints, processes."""

from __future__ import annotations

from dataclasses import dataclass

from lmu_asr.options import opt


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training batches."""

    spec_augment: bool = opt(True, "mask time and frequency (Park et al. 2019)")
    time_masks: int = opt(2, "number of time masks for every 10 s, or part of it", min=0, max=100)
    time_mask_frames: int = opt(30, "longest time mask, in frames", min=0, max=1000)
    freq_masks: int = opt(2, "number of frequency masks", min=0, max=20)
    freq_mask_bins: int = opt(20, "widest frequency mask, in mel bins", min=0, max=256)
    max_time_fraction: float = opt(0.2, "largest share of an utterance to mask", min=0.0, max=1.0)
    rir_dir: str = opt(
        "",
        "directory of room impulse responses for training; empty: no rooms",
        path=(),
    )
    reverb_prob: float = opt(0.5, "share of training utterances that get a room", min=0.0, max=1.0)
    noise_dir: str = opt("", "directory of noise recordings for training; empty: no noise", path=())
    noise_prob: float = opt(0.5, "share of training utterances that get noise", min=0.0, max=1.0)
    noise_snr: list[float] = opt(
        [10.0, 20.0], "lowest and highest signal-to-noise ratio, in dB", items=(2, 2)
    )


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, checkpoints and launch."""

    epochs: int = opt(20, "passes over the training split", min=1)
    max_steps: int = opt(0, "stop after this many steps; 0: no limit", min=0)
    max_duration: float = opt(
        200.0,
        "seconds of audio in a batch, all processes together: it shapes what is learnt; to save memory, lower "
        "train.frame_limit instead",
        min=1.0,
    )
    num_buckets: int = opt(
        20,
        "duration buckets for batches; more: less padding",
        min=1,
        max=1000,
    )
    shar: str = opt(
        "",
        "directory or s3://bucket/prefix of Lhotse Shar to train from; empty: the archives of stage 1",
        path=(),
        shapes=(),
    )
    shar_window: int = opt(
        5000,
        "with train.shar: number of utterances that are shuffled together",
        min=1,
        max=10**6,
        shapes=(),
    )
    sorted_epochs: int = opt(
        0, "number of first epochs that go from short to long utterances; helps CTC to start", min=0
    )
    lr: float = opt(
        2e-3,
        "peak learning rate; lower it if the loss jumps",
        min=0.0,
        max=10.0,
    )
    min_lr_ratio: float = opt(0.02, "last learning rate over the peak", min=0.0, max=1.0)
    warmup_steps: int = opt(200, "steps of linear warm-up", min=0)
    schedule: str = opt(
        "cosine",
        "course of the learning rate after the warm-up",
        choices=("cosine", "constant", "constant_decay", "noam", "eden"),
    )
    decay_share: float = opt(
        0.2,
        "constant_decay: share of all steps, at the end, in which the rate falls",
        min=0,
        max=1,
    )
    eden_steps: float = opt(
        5000.0,
        "eden: steps after which the rate falls with their square root",
        min=1,
    )
    eden_epochs: float = opt(6.0, "eden: the same in epochs; both factors apply", min=0.01)
    optimizer: str = opt(
        "adamw",
        "adamw8bit keeps the moments in 8 bits, for models that fill the GPU's memory; it is an extra (utils/setup.sh "
        "--with-extras)",
        choices=("adamw", "adamw8bit"),
    )
    weight_decay: float = opt(0.01, "weight decay of AdamW, for matrices only", min=0.0, max=1.0)
    betas: list[float] = opt([0.9, 0.98], "betas of AdamW", items=(2, 2), min=0.0, max=0.9999)
    clip_norm: float = opt(5.0, "largest gradient norm; larger gradients are scaled down", min=0.0)
    accumulate: int = opt(1, "number of batches summed in one optimiser step", min=1)
    precision: str = opt(
        "auto",
        "type of the matrix products; auto: bf16 on a GPU that has it, else float32",
        choices=("auto", "float32", "bf16", "fp16"),
    )
    ema: float = opt(
        0.0,
        "decay of averaged weights, used for validation; 0: none",
        min=0.0,
        max=0.99999,
    )
    average: int = opt(1, "best epochs averaged into averaged.pt", min=1, max=100)
    checkpoint_every: int = opt(
        200, "steps between checkpoints; each epoch also ends with one", min=1, shapes=()
    )
    checkpoint_minutes: float = opt(10.0, "most minutes between checkpoints", min=0.01, shapes=())
    keep_last: int = opt(2, "checkpoints kept besides best and last", min=1, shapes=())
    validate_every: int = opt(1, "epochs between validations", min=1)
    patience: int = opt(
        0, "stop after this many validations without a lower error rate on dev; 0: never", min=0
    )
    log_every: int = opt(20, "steps between log lines", min=1, shapes=())
    num_workers: int = opt(
        -1,
        "loader processes; -1: measured; lower it if memory runs out",
        min=-1,
        max=256,
        shapes=("plan",),
    )
    strategy: str = opt(
        "ddp",
        "what each of several processes holds: ddp the whole model; fsdp a part of it; zero2 a layer whole from its "
        "forward to its backward pass, and a part of gradients and optimiser state; deepspeed, an extra, what "
        "train.deepspeed_config says",
        choices=("ddp", "fsdp", "zero2", "deepspeed"),
        shapes=(),
    )
    deepspeed_config: str = opt(
        "",
        "JSON file of DeepSpeed's options for train.strategy=deepspeed (ZeRO stage, offload); empty: ZeRO-2",
        path=(),
        shapes=(),
    )
    join_minutes: float = opt(
        5.0,
        "minutes that a process waits for the others to start",
        min=0.01,
        shapes=(),
    )
    sync_batchnorm: bool = opt(
        False, "compute batch normalisation over all processes (GPU); for models that have it"
    )
    deterministic: bool = opt(True, "bit-equal runs on the CPU, deterministic kernels on a GPU")
    tensorboard: bool = opt(True, "write TensorBoard events", shapes=())
    wandb: str = opt(
        "off",
        "log to Weights and Biases (an extra)",
        choices=("off", "offline", "online"),
        shapes=(),
    )
    wandb_project: str = opt("lmu_asr", "project name in Weights and Biases", shapes=())
    autoconf: bool = opt(
        True,
        "measure memory and time before training, to choose micro-batches, precision and loader processes",
        shapes=(),
    )
    memory_mib: int = opt(
        0,
        "memory that one training process may use, in MiB; 0: 0.9 of what is free on a GPU, 0.65 on a CPU",
        min=0,
        shapes=("plan",),
    )
    frame_limit: int = opt(
        0,
        "most frames, with padding, computed at once; larger batches are split, with the same result; 0: measured. Lower "
        "it if memory runs out",
        min=0,
        shapes=(),
    )
    init_from: str = opt(
        "",
        "checkpoint whose weights training starts from; its output layer is used only if the tokens are the same",
        path=(),
    )
    freeze: list[str] = opt(
        [],
        "name patterns (* and ?) of parameters that are not trained, such as [encoder.subsampling.*]",
    )
    lr_scales: list[str] = opt(
        [],
        "PATTERN=FACTOR: multiplies the learning rate of these parameters, such as ['encoder.*=0.1']; the first match "
        "counts",
    )
    remote: str = opt(
        "",
        "s3://bucket/prefix to copy checkpoints and results to; an empty experiment directory resumes from there",
        pattern="(s3://.+)?",
        shapes=(),
    )
