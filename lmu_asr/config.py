"""The one vocabulary of options: what YAML, ``--set``, ``--help`` and the documentation all say.

Reading variants and checking them: :mod:`lmu_asr.config_files`. The resolved configuration is immutable.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Any

from lmu_asr.errors import ConfigError
from lmu_asr.options import Option, opt, options_of
from lmu_asr.registry import ENCODERS, HEADS, REGISTRIES

# A name that becomes a part of a path: it can neither lead out of its directory nor look like an option.
NAME = {
    "pattern": r"\w([\w.+,=@ -]{0,98}[\w.+,=@-])?",
    "want": "a name of letters, digits, blanks and . , _ - + = @ that begins with a letter or a digit and "
    "does not end in a blank",
}
NAME_OR_EMPTY = {**NAME, "pattern": f"({NAME['pattern']})?"}


@dataclass(frozen=True)
class CorpusConfig:
    """Which speech, and how it is split."""

    name: str = opt("mini", "corpus, a module of lmu_asr.corpora")
    id: str = opt(
        "",
        "directory name under data and exp; empty: the corpus name",
        **NAME_OR_EMPTY,
        shapes=("decode",),
    )
    source: str = opt(
        "",
        "directory or file with the user's own copy of the data, or s3://bucket/prefix that stage 0 "
        "fetches; empty: --data-dir/<name>",
        path=(),
        shapes=("download", "features"),
    )
    mirror: str = opt(
        "",
        "base address to download from in place of the corpus's own",
        pattern=r"((https?|ftp)://[^/\s]+(/\S*)?|file:///.*)?",
        want="an address such as https://HOST/FOLDER or file:///FOLDER",
        shapes=("download",),
    )
    download_dir: str = opt(
        "", "directory of archives downloaded by other means", path=(), shapes=("download",)
    )
    s3_cache: str = opt(
        "",
        "directory that keeps audio which own lists name by s3:// addresses, or hold in themselves (Parquet); "
        "empty: --data-dir/<name>/s3",
        path=(),
        shapes=(),
    )
    pipes: bool = opt(
        False,
        "run the commands that Kaldi's wav.scp names in place of files, such as flac -c -d -s a.flac |; "
        "each runs once and its audio is kept. Off by default: a command can do anything",
        shapes=("features",),
    )
    pipe_dir: str = opt(
        "",
        "directory that keeps their audio as FLAC; empty: --data-dir/<name>/pipes",
        path=(),
        shapes=(),
    )
    pipe_minutes: float = opt(
        10.0,
        "minutes after which such a command is ended, and its utterance dropped",
        min=0.001,
        shapes=("features",),
    )
    pipe_jobs: int = opt(0, "such commands at once; 0: --nj", min=0, max=1024, shapes=())
    text: str = opt(
        "corpus",
        "what happens to transcripts and lm.text: the corpus's own rule (of own data and Common "
        "Voice plain); plain: lower case, letters, marks and numbers of any script, apostrophes "
        "within words, tags in brackets dropped; upper: the same in upper case; as_is: only control "
        "characters are dropped and blanks made single",
        choices=("corpus", "plain", "upper", "as_is"),
        shapes=("features", "decode"),
    )
    train: str = opt(
        "train", "split that trains; several joined by +", **NAME, shapes=("features", "decode")
    )
    dev: str = opt(
        "dev",
        "split that tunes: early stopping and decoding scales",
        **NAME,
        shapes=("features", "decode"),
    )
    test: list[str] = opt(
        ["test"], "splits that are only scored", **NAME, shapes=("features", "decode")
    )
    dev_fraction: float = opt(
        0.1,
        "own data with one split: share that becomes dev",
        min=0.0,
        max=0.5,
        shapes=("features", "decode"),
    )
    test_fraction: float = opt(
        0.1,
        "own data with one split: share that becomes test",
        min=0.0,
        max=0.5,
        shapes=("features", "decode"),
    )
    speakers: int = opt(
        40, "mini: number of synthetic speakers", min=3, max=200, shapes=("download",)
    )
    minutes: float = opt(
        66.0,
        "mini: speech to make, in minutes, over all splits",
        min=0.1,
        max=6000,
        shapes=("download",),
    )


@dataclass(frozen=True)
class FeaturesConfig:
    """Acoustic features: Kaldi-compatible log-mel filter banks."""

    backend: str = opt(
        "lhotse", "implementation of fbank", choices=("lhotse", "kaldifeat", "torchaudio")
    )
    num_mel_bins: int = opt(80, "mel filters", min=8, max=256)
    sample_rate: int = opt(
        16000, "hertz; other audio is resampled, and said so", min=8000, max=48000
    )
    frame_length_ms: float = opt(25.0, "window, in milliseconds", min=5.0, max=200.0)
    frame_shift_ms: float = opt(10.0, "hop, in milliseconds", min=1.0, max=100.0)
    dither: float = opt(
        0.0, "standard deviation of added noise; 0 keeps features deterministic", min=0
    )
    speed_perturb: list[float] = opt(
        [], "speed factors added to the training split, such as [0.9, 1.1]"
    )
    min_duration: float = opt(0.1, "seconds; shorter utterances are dropped and listed", min=0.0)
    max_duration: float = opt(40.0, "seconds; longer utterances are dropped and listed", min=0.1)


@dataclass(frozen=True)
class LangConfig:
    """Output tokens and the lexicon."""

    unit: str = opt("char", "output tokens", choices=("char", "bpe", "phone"))
    bpe_vocab_size: int = opt(500, "BPE tokens", min=8, max=100000)
    bpe_type: str = opt("unigram", "sentencepiece model", choices=("unigram", "bpe"))
    lexicon: str = opt(
        "", "pronunciation file (word phone phone ...); empty: CMUdict for phones", path=()
    )
    oov: str = opt("g2p", "phones of words outside the lexicon", choices=("g2p", "refuse", "drop"))
    optional_silence: bool = opt(
        False, "allow an optional silence phone between words (phones only)"
    )


@dataclass(frozen=True)
class LmConfig:
    """Word n-gram language model of the decoding graph."""

    order: int = opt(3, "n-gram order", min=1, max=9, shapes=("graph",))
    text: str = opt("", "extra training text, one sentence a line (.gz allowed)", path=())
    arpa: str = opt("", "ARPA file to take as it is in place of training one", path=())
    train_text: bool = opt(
        True, "train on the transcripts of the training split", shapes=("graph",)
    )
    prune: float = opt(
        0.0, "entropy pruning threshold; 0 keeps everything", min=0.0, shapes=("graph",)
    )
    max_words: int = opt(200000, "vocabulary limit, the most frequent words first", min=1)
    rescore_order: int = opt(
        0, "order of the larger model for rescoring; 0: none", min=0, max=9, shapes=("graph",)
    )


@dataclass(frozen=True)
class GraphConfig:
    """Decoding graphs."""

    kinds: list[str] = opt(["H", "HL", "HLG"], "graphs to compile", choices=("H", "HL", "HLG"))
    topology: str = opt("standard", "CTC topology", choices=("standard", "modified"))
    fsa: str = opt(
        "auto",
        "engine of graphs, loss and search",
        choices=("auto", "k2", "openfst"),
        shapes=("decode",),
    )


@dataclass(frozen=True)
class CommonModelConfig:
    """What every encoder and every head uses."""

    encoder: str = opt(
        "lmu", "encoder, a module of lmu_asr.models.encoders", choices=ENCODERS.names
    )
    head: str = opt(
        "ctc", "output layer and loss, a module of lmu_asr.models.heads", choices=HEADS.names
    )
    dim: int = opt(144, "model width", min=8, max=4096)
    num_layers: int = opt(8, "blocks", min=1, max=100)
    subsampling: int = opt(4, "frames in to one frame out", choices=(2, 4, 8))
    frontend: str = opt(
        "linear",
        "subsampling: linear over all features, or conv2d over time and mel bins",
        choices=("linear", "conv2d"),
    )
    subsampling_channels: int = opt(64, "channels of the convolutional front end", min=1, max=1024)
    ff_mult: float = opt(2.0, "feed-forward width over dim", min=0.0, max=8.0)
    bidirectional: bool = opt(True, "let each frame depend on later ones (offline use only)")
    dropout: float = opt(0.1, "dropout", min=0.0, max=0.9)
    stochastic_depth: float = opt(
        0.0, "drop rate of the last block, rising linearly", min=0.0, max=0.9
    )
    grad_checkpoint: bool = opt(False, "recompute blocks in the backward pass to save memory")
    normalize: str = opt(
        "global",
        "mean and variance normalisation of the input",
        choices=("global", "utterance", "none"),
    )


@dataclass(frozen=True)
class ModelConfig(CommonModelConfig):
    """The encoder and its head.

    ``encoder_options`` and ``head_options`` are the ``Options`` of the chosen modules: the sections
    ``model.<encoder>`` and ``model.<head>``. Left out, they have their defaults.

    Raises:
        ConfigError: there is no such encoder or head, or the options are those of another.
    """

    encoder_options: Any = None
    head_options: Any = None

    def __post_init__(self) -> None:
        """Fill in and check the options of the chosen modules."""
        for registry in REGISTRIES:
            name, place = getattr(self, registry.key), f"{registry.key}_options"
            kind, given = registry.options(name), getattr(self, place)
            if given is None:
                object.__setattr__(self, place, kind())
            elif not isinstance(given, kind):
                raise ConfigError(
                    f"model.{registry.key}={name} with options of {type(given).__module__}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, as YAML has them: a section for each chosen module."""
        values = asdict(self)
        for registry in REGISTRIES:
            values[getattr(self, registry.key)] = values.pop(f"{registry.key}_options")
        return values


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training batches."""

    spec_augment: bool = opt(True, "mask time and frequency (Park et al. 2019)")
    time_masks: int = opt(2, "time masks per 10 s or part", min=0, max=100)
    time_mask_frames: int = opt(30, "longest time mask", min=0, max=1000)
    freq_masks: int = opt(2, "frequency masks", min=0, max=20)
    freq_mask_bins: int = opt(20, "widest frequency mask", min=0, max=256)
    max_time_fraction: float = opt(0.2, "largest share of an utterance masked", min=0.0, max=1.0)
    rir_dir: str = opt(
        "",
        "directory of room impulse responses that training features are put into; empty: none",
        path=(),
    )
    reverb_prob: float = opt(0.5, "share of training utterances in a room", min=0.0, max=1.0)
    noise_dir: str = opt(
        "", "directory of noise recordings mixed into training audio; empty: none", path=()
    )
    noise_prob: float = opt(0.5, "share of training utterances with noise", min=0.0, max=1.0)
    noise_snr: list[float] = opt(
        [10.0, 20.0], "lowest and highest signal-to-noise ratio, in decibels"
    )


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, checkpoints and launch."""

    epochs: int = opt(20, "passes over the training split", min=1)
    max_steps: int = opt(0, "stop after this many steps; 0: no limit", min=0)
    max_duration: float = opt(
        200.0,
        "seconds of audio in a batch over all processes; lower it if memory runs out",
        min=1.0,
    )
    num_buckets: int = opt(20, "duration buckets of the sampler", min=1, max=1000)
    shar: str = opt(
        "",
        "directory or s3://bucket/prefix of Lhotse Shar to train from, read shard after shard; empty: "
        "the archives of stage 1",
        path=(),
        shapes=(),
    )
    shar_window: int = opt(
        5000,
        "shar: utterances that are shuffled together, whole shards",
        min=1,
        max=10**6,
        shapes=(),
    )
    sorted_epochs: int = opt(
        0, "first epochs that go from short to long utterances: CTC starts more easily", min=0
    )
    lr: float = opt(2e-3, "peak learning rate", min=0.0, max=10.0)
    min_lr_ratio: float = opt(0.02, "last learning rate over the peak", min=0.0, max=1.0)
    warmup_steps: int = opt(200, "steps of linear warm-up", min=0)
    schedule: str = opt(
        "cosine",
        "after the warm-up",
        choices=("cosine", "constant", "constant_decay", "noam", "eden"),
    )
    decay_share: float = opt(
        0.2, "constant_decay: share of all steps, the last, that the rate falls over", min=0, max=1
    )
    eden_steps: float = opt(
        5000.0, "eden: steps after which the rate falls as their square root", min=1
    )
    eden_epochs: float = opt(6.0, "eden: the same in epochs; both factors apply", min=0.01)
    optimizer: str = opt(
        "adamw",
        "adamw8bit: its moments in 8 bits, an extra, for models that fill the GPU's memory",
        choices=("adamw", "adamw8bit"),
    )
    weight_decay: float = opt(0.01, "AdamW weight decay of matrices", min=0.0, max=1.0)
    betas: list[float] = opt([0.9, 0.98], "AdamW betas")
    clip_norm: float = opt(5.0, "gradient norm limit", min=0.0)
    accumulate: int = opt(1, "batches summed in one step", min=1)
    precision: str = opt(
        "auto",
        "auto: bf16 on a GPU that has it, else float32",
        choices=("auto", "float32", "bf16", "fp16"),
    )
    ema: float = opt(
        0.0, "decay of the averaged weights used for validation; 0: none", min=0.0, max=0.99999
    )
    average: int = opt(1, "checkpoints averaged into averaged.pt", min=1, max=100)
    checkpoint_every: int = opt(
        200, "steps between checkpoints, besides each epoch's end", min=1, shapes=()
    )
    checkpoint_minutes: float = opt(
        10.0, "minutes between checkpoints at the most", min=0.01, shapes=()
    )
    keep_last: int = opt(2, "checkpoints kept besides best and last", min=1, shapes=())
    validate_every: int = opt(1, "epochs between validations", min=1)
    patience: int = opt(
        0, "stop after this many validations without a lower dev WER; 0: never", min=0
    )
    log_every: int = opt(20, "steps between log lines", min=1, shapes=())
    num_workers: int = opt(
        -1, "loader processes; -1: chosen from the machine", min=-1, max=256, shapes=("plan",)
    )
    strategy: str = opt(
        "ddp",
        "several processes: ddp holds the model in each, fsdp a part of it; deepspeed, an extra, "
        "holds the model in each and a part of gradients and optimiser state",
        choices=("ddp", "fsdp", "deepspeed"),
        shapes=(),
    )
    join_minutes: float = opt(
        5.0,
        "minutes that a process waits for the others of its run to start",
        min=0.01,
        shapes=(),
    )
    sync_batchnorm: bool = opt(
        False, "batch normalisation over all processes (GPU), in models that have it"
    )
    deterministic: bool = opt(True, "bit-equal runs on the CPU, deterministic kernels on a GPU")
    tensorboard: bool = opt(True, "write TensorBoard events", shapes=())
    wandb: str = opt(
        "off", "Weights and Biases, an extra", choices=("off", "offline", "online"), shapes=()
    )
    wandb_project: str = opt("lmu_asr", "project of Weights and Biases", shapes=())
    autoconf: bool = opt(
        True,
        "measure memory and time before training: how batches are cut, loader processes",
        shapes=(),
    )
    memory_mib: int = opt(
        0,
        "memory that one training process may hold, in MiB; 0: 0.9 of what is free",
        min=0,
        shapes=("plan",),
    )
    frame_limit: int = opt(
        0,
        "padded frames computed at once; larger batches are split; 0: measured",
        min=0,
        shapes=(),
    )
    init_from: str = opt(
        "",
        "checkpoint whose weights start the run; its output layer only if the tokens are the same",
        path=(),
    )
    freeze: list[str] = opt(
        [],
        "patterns (* and ?) of parameter names that stay as they are, such as [encoder.subsampling.*]",
    )
    lr_scales: list[str] = opt(
        [],
        "PATTERN=FACTOR of the learning rate of parameters, such as ['encoder.*=0.1']; the first that "
        "fits counts",
    )
    remote: str = opt(
        "",
        "s3://bucket/prefix that mirrors checkpoints and results; an empty experiment directory "
        "goes on from there",
        pattern="(s3://.+)?",
        shapes=(),
    )


@dataclass(frozen=True)
class DecodeConfig:
    """Search."""

    methods: list[str] = opt(
        ["greedy", "HLG"],
        "searches to run and compare",
        choices=(
            "greedy",
            "prefix_beam",
            "H",
            "HL",
            "HLG",
            "nbest",
            "nbest_rescore",
            "lattice_rescore",
        ),
    )
    checkpoint: str = opt(
        "best", "best, last, averaged, or a path", path=("best", "last", "averaged")
    )
    tag: str = opt(
        "",
        "name of this decode beside others of the same training: directory decode-<tag>, "
        "table row <variant>+<tag>",
        pattern="[A-Za-z0-9._-]*",
    )
    max_duration: float = opt(300.0, "seconds of audio in a batch", min=1.0)
    search_beam: float = opt(16.0, "width of the search; lower it if memory runs out", min=0.1)
    lattice_beam: float = opt(8.0, "width of the lattice kept", min=0.1)
    max_active: int = opt(7000, "states kept at each frame; lower it if memory runs out", min=10)
    acoustic_scales: list[float] = opt([1.0], "acoustic scales tried on dev", min=0.0)
    lm_scales: list[float] = opt(
        [0.3, 0.5, 0.7, 1.0],
        "language-model scales tried on dev, and more past the ends while that helps",
        min=0.0,
    )
    blank_penalties: list[float] = opt(
        [0.0, 1.0], "penalties of blank tried on dev, in log probability"
    )
    beam: int = opt(8, "prefixes kept by prefix beam search", min=1, max=1000)
    nbest: int = opt(50, "paths of nbest methods", min=1, max=10000)
    hot_words: list[str] = opt([], "phrases to favour in prefix_beam, HL, HLG and n-best methods")
    hot_word_boost: float = opt(
        2.0, "log probability that each word (prefix_beam: token) of a hot phrase earns", min=0.0
    )
    streaming: bool = opt(False, "decode through step() in chunks, as a stream would")
    chunk_ms: float = opt(320.0, "chunk of streaming decoding, in milliseconds", min=10.0)
    weights: str = opt(
        "float", "weights of linear layers; int8 is for the CPU", choices=("float", "int8")
    )
    bootstrap: int = opt(2000, "resamplings behind each confidence interval", min=100)

    @property
    def directory(self) -> str:
        """Name of the directory below the experiment that decoding writes."""
        return f"decode-{self.tag}" if self.tag else "decode"


@dataclass(frozen=True)
class Config:
    """Everything a recipe variant is made of."""

    variant: str = opt(
        "default", "name of the variant: its experiment directory and table row", **NAME, shapes=()
    )
    seed: int = opt(42, "the one seed; every epoch, worker and process derives its own", min=0)
    overrides: list[str] = opt(
        [],
        "what --set changed in the variant, key=value; run.sh fills it in, the table shows it",
        shapes=(),
    )
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    lang: LangConfig = field(default_factory=LangConfig)
    lm: LmConfig = field(default_factory=LmConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)

    def section(self, name: str) -> Any:
        """Return one section as plain dictionaries and lists, or one value that has no section."""
        return self.to_dict()[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole configuration as plain dictionaries and lists."""
        return {**asdict(self), "model": self.model.to_dict()}


def attribute(node: Any, part: str) -> str:
    """Field of a part of the configuration that one part of a dotted key names."""
    for registry in REGISTRIES if isinstance(node, ModelConfig) else ():
        if getattr(node, registry.key) == part:
            return f"{registry.key}_options"
    return part


def schema() -> type:
    """The configuration with a section for every registered encoder and head, chosen or not."""
    return _schema(tuple(registry.names() for registry in REGISTRIES))


@functools.cache
def _schema(names: tuple[tuple[str, ...], ...]) -> type:
    """``names`` tell one set of registered modules from another."""
    kinds: dict[str, type] = {}
    for registry, modules in zip(REGISTRIES, names, strict=True):
        for name in modules:
            if name in kinds or name in CommonModelConfig.__dataclass_fields__:
                raise ConfigError(
                    f"{registry.package}.{name}: the name is taken by another section or option; rename"
                )
            kinds[name] = registry.options(name)
    sections = [(name, kind, field(default_factory=kind)) for name, kind in kinds.items()]
    model = make_dataclass("Model", sections, bases=(CommonModelConfig,), frozen=True)
    whole = [("model", model, field(default_factory=model))]
    return make_dataclass("Schema", whole, bases=(Config,), frozen=True)


def options() -> tuple[Option, ...]:
    """Every option with its dotted key, in the order of declaration."""
    return _options(schema())


@functools.cache
def _options(kind: type) -> tuple[Option, ...]:
    return tuple(options_of(kind))


def options_markdown() -> str:
    """Return the table of all options for the documentation."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for option in options():
        hidden = ("pattern",) if "want" in option.limits else ()
        limits = ", ".join(f"{k} {v}" for k, v in option.limits.items() if k not in hidden)
        note = f" ({limits})" if limits else ""
        rows.append(
            f"| `{option.key}` | {option.type} | `{option.default!r}` | {option.help}{note} |"
        )
    return "\n".join(rows) + "\n"
