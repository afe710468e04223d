"""The one vocabulary of options: what YAML, ``--set``, ``--help`` and the documentation all say.

Reading variants and checking them: :mod:`lmu_asr.config_files`. The resolved configuration is immutable.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Any

from lmu_asr.config_train import AugmentConfig as AugmentConfig
from lmu_asr.config_train import TrainConfig as TrainConfig
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

    name: str = opt("mini", "corpus: a module of lmu_asr.corpora")
    id: str = opt(
        "",
        "directory name below data and exp; empty: the name of the corpus",
        **NAME_OR_EMPTY,
        shapes=("decode",),
    )
    source: str = opt(
        "",
        "your own copy of the data, a directory or file, or s3://bucket/prefix, which stage 0 downloads; empty: "
        "--data-dir/<name>",
        path=(),
        shapes=("download", "features"),
    )
    mirror: str = opt(
        "",
        "base address to download from instead of the corpus's own",
        pattern=r"((https?|ftp)://[^/\s]+(/\S*)?|file:///.*)?",
        want="an address such as https://HOST/FOLDER or file:///FOLDER",
        shapes=("download",),
    )
    download_dir: str = opt(
        "",
        "directory of archives that you downloaded yourself",
        path=(),
        shapes=("download",),
    )
    s3_cache: str = opt(
        "",
        "directory for audio that lists name by s3:// addresses or contain themselves (Parquet); empty: "
        "--data-dir/<name>/s3",
        path=(),
        shapes=(),
    )
    pipes: bool = opt(
        False,
        "run the commands that Kaldi's wav.scp has instead of files, such as flac -c -d -s a.flac |; each runs once and "
        "its audio is kept. Off by default, because a command can do anything",
        shapes=("features",),
    )
    pipe_dir: str = opt(
        "",
        "directory for the audio of these commands, as FLAC; empty: --data-dir/<name>/pipes",
        path=(),
        shapes=(),
    )
    pipe_minutes: float = opt(
        10.0,
        "minutes after which such a command is stopped and its utterance dropped",
        min=0.001,
        shapes=("features",),
    )
    pipe_jobs: int = opt(0, "how many of them run at once; 0: --nj", min=0, max=1024, shapes=())
    text: str = opt(
        "corpus",
        "normalisation of transcripts and lm.text. corpus: the corpus's own rule (plain for own data and Common Voice); "
        "plain: lower case, letters, marks and numbers of any script, apostrophes within words, tags in brackets removed; "
        "upper: the same in upper case; as_is: only control characters and repeated blanks are removed",
        choices=("corpus", "plain", "upper", "as_is"),
        shapes=("features", "decode"),
    )
    train: str = opt(
        "train", "split to train on; join several with +", **NAME, shapes=("features", "decode")
    )
    dev: str = opt(
        "dev",
        "split for validation, early stopping and the tuning of decoding scales",
        **NAME,
        shapes=("features", "decode"),
    )
    test: list[str] = opt(
        ["test"], "splits that are only scored", **NAME, shapes=("features", "decode")
    )
    dev_fraction: float = opt(
        0.1,
        "share of own data without splits that becomes dev",
        min=0.0,
        max=0.5,
        shapes=("features", "decode"),
    )
    test_fraction: float = opt(
        0.1,
        "share of own data without splits that becomes test",
        min=0.0,
        max=0.5,
        shapes=("features", "decode"),
    )
    speakers: int = opt(
        40, "mini only: number of synthetic speakers", min=3, max=200, shapes=("download",)
    )
    minutes: float = opt(
        66.0,
        "mini only: minutes of speech to make, all splits together",
        min=0.1,
        max=6000,
        shapes=("download",),
    )

    @property
    def splits(self) -> list[str]:
        """Names of the splits that train, tune and test, without repeats."""
        return list(dict.fromkeys([self.train, self.dev, *self.test]))


@dataclass(frozen=True)
class FeaturesConfig:
    """Acoustic features: Kaldi-compatible log-mel filter banks."""

    backend: str = opt(
        "lhotse",
        "implementation of the filter banks",
        choices=("lhotse", "kaldifeat", "torchaudio"),
    )
    num_mel_bins: int = opt(80, "number of mel filters, the features of a frame", min=8, max=256)
    sample_rate: int = opt(
        16000,
        "Hz; audio of other rates is resampled, with a log line",
        min=8000,
        max=48000,
    )
    frame_length_ms: float = opt(25.0, "window length in milliseconds", min=5.0, max=200.0)
    frame_shift_ms: float = opt(10.0, "time between frames in milliseconds", min=1.0, max=100.0)
    dither: float = opt(
        0.0,
        "standard deviation of noise added to the samples; 0: none, features are deterministic",
        min=0,
    )
    speed_perturb: list[float] = opt(
        [],
        "speed factors of copies added to the training split, such as [0.9, 1.1]; two factors make an epoch three times "
        "as long",
    )
    min_duration: float = opt(0.1, "shorter utterances (seconds) are dropped and listed", min=0.0)
    max_duration: float = opt(
        40.0,
        "longer utterances, in seconds, are dropped and listed; lower it if one utterance does not fit in memory",
        min=0.1,
    )


@dataclass(frozen=True)
class LangConfig:
    """Output tokens and the lexicon."""

    unit: str = opt(
        "char",
        "output tokens: characters, BPE pieces or phones; phones need a lexicon, and a graph (HL, HLG) to decode words",
        choices=("char", "bpe", "phone"),
    )
    bpe_vocab_size: int = opt(500, "number of BPE tokens", min=8, max=100000)
    bpe_type: str = opt("unigram", "sentencepiece algorithm", choices=("unigram", "bpe"))
    lexicon: str = opt(
        "",
        "pronunciation file, one 'word phone phone ...' a line; empty: CMUdict with lang.unit=phone",
        path=(),
    )
    oov: str = opt(
        "g2p",
        "words that the lexicon lacks: g2p predicts their phones, refuse stops with an error, drop leaves these words out "
        "of the lexicon",
        choices=("g2p", "refuse", "drop"),
    )
    optional_silence: bool = opt(
        False, "allow an optional silence phone between words; used with lang.unit=phone"
    )


@dataclass(frozen=True)
class LmConfig:
    """Word n-gram language model of the decoding graph."""

    order: int = opt(3, "n-gram order", min=1, max=9, shapes=("graph",))
    text: str = opt(
        "", "extra text for the n-gram model, one sentence a line (.gz allowed)", path=()
    )
    arpa: str = opt("", "ready-made ARPA file to use instead of training an n-gram model", path=())
    train_text: bool = opt(
        True, "train the n-gram model on the transcripts of the training split", shapes=("graph",)
    )
    prune: float = opt(
        0.0,
        "entropy pruning; raise it if the graph is too large; 0: none",
        min=0.0,
        shapes=("graph",),
    )
    max_words: int = opt(200000, "size of the vocabulary; the most frequent words are kept", min=1)
    rescore_order: int = opt(
        0,
        "order of the larger n-gram for rescoring; 0: none",
        min=0,
        max=9,
        shapes=("graph",),
    )


@dataclass(frozen=True)
class GraphConfig:
    """Decoding graphs."""

    kinds: list[str] = opt(["H", "HL", "HLG"], "graphs to compile", choices=("H", "HL", "HLG"))
    topology: str = opt(
        "standard",
        "CTC topology: standard, or the compact one with fewer arcs, for thousands of tokens",
        choices=("standard", "modified"),
    )
    fsa: str = opt(
        "auto",
        "library for graphs, CTC loss and search; auto: k2 if it is installed, else openfst",
        choices=("auto", "k2", "openfst"),
        shapes=("decode",),
    )


@dataclass(frozen=True)
class CommonModelConfig:
    """What every encoder and every head uses."""

    encoder: str = opt(
        "lmu", "encoder: a module of lmu_asr.models.encoders", choices=ENCODERS.names
    )
    head: str = opt(
        "ctc", "output layer and loss: a module of lmu_asr.models.heads", choices=HEADS.names
    )
    dim: int = opt(144, "model width: values per frame between layers", min=8, max=4096)
    num_layers: int = opt(8, "number of layers", min=1, max=100)
    subsampling: int = opt(4, "input frames per output frame", choices=(2, 4, 8))
    frontend: str = opt(
        "linear",
        "subsampling: linear over all features of a frame, or conv2d over time and mel bins",
        choices=("linear", "conv2d"),
    )
    subsampling_channels: int = opt(64, "channels of the convolutional front end", min=1, max=1024)
    ff_mult: float = opt(
        2.0,
        "feed-forward width over model.dim; 0: none",
        min=0.0,
        max=8.0,
    )
    bidirectional: bool = opt(True, "use past and future frames; such a model cannot stream")
    dropout: float = opt(
        0.1,
        "dropout rate; raise it against over-fitting",
        min=0.0,
        max=0.9,
    )
    stochastic_depth: float = opt(
        0.0,
        "rate of skipping the last layer; falls linearly to 0 at the first",
        min=0.0,
        max=0.9,
    )
    grad_checkpoint: bool = opt(False, "recompute layers in the backward pass to save memory")
    normalize: str = opt(
        "global",
        "input normalisation: global uses mean and variance of the training split; utterance those of each utterance, and "
        "cannot stream",
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
class DecodeConfig:
    """Search."""

    methods: list[str] = opt(
        ["greedy", "HLG"],
        "search methods to run and compare",
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
        "best",
        "weights to decode: best, last, averaged, or a path",
        path=("best", "last", "averaged"),
    )
    tag: str = opt(
        "",
        "name of this decode, to keep it beside others of the same training: directory decode-<tag>, table row "
        "<variant>+<tag>",
        pattern="[A-Za-z0-9._-]*",
    )
    max_duration: float = opt(
        300.0, "seconds of audio in a batch; lower it if memory runs out", min=1.0
    )
    search_beam: float = opt(
        16.0,
        "beam width of the search; lower it if memory runs out, raise it if there are fallbacks",
        min=0.1,
    )
    lattice_beam: float = opt(
        8.0, "beam width of the lattice; lower it if memory runs out", min=0.1
    )
    max_active: int = opt(
        7000,
        "most states kept at each frame; lower it if memory runs out, raise it if there are fallbacks",
        min=10,
    )
    acoustic_scales: list[float] = opt([1.0], "acoustic scales to try on dev", min=0.0)
    lm_scales: list[float] = opt(
        [0.3, 0.5, 0.7, 1.0],
        "language-model scales to try on dev; values beyond the ends are tried while that helps",
        min=0.0,
    )
    blank_penalties: list[float] = opt(
        [0.0, 1.0], "penalties to try on dev, subtracted from the log-probability of blank"
    )
    beam: int = opt(8, "prefixes kept by prefix beam search", min=1, max=1000)
    nbest: int = opt(50, "paths in the list of the n-best methods", min=1, max=10000)
    hot_words: list[str] = opt([], "phrases to favour in prefix_beam, HL, HLG and n-best methods")
    hot_word_boost: float = opt(
        2.0, "log-probability added for each word (prefix_beam: token) of a hot phrase", min=0.0
    )
    streaming: bool = opt(False, "decode in chunks with step(), like a live stream")
    chunk_ms: float = opt(320.0, "chunk length of streaming decoding, in milliseconds", min=10.0)
    weights: str = opt(
        "float", "weights of linear layers; int8 is for the CPU", choices=("float", "int8")
    )
    bootstrap: int = opt(2000, "resamplings for each confidence interval", min=100)

    @property
    def directory(self) -> str:
        """Name of the directory below the experiment that decoding writes."""
        return f"decode-{self.tag}" if self.tag else "decode"


@dataclass(frozen=True)
class Config:
    """Everything a recipe variant is made of."""

    variant: str = opt(
        "default",
        "name of the variant: its experiment directory and table row",
        **NAME,
        shapes=(),
    )
    seed: int = opt(42, "the only seed; every epoch, worker and process derives its own", min=0)
    overrides: list[str] = opt(
        [],
        "what --set changed, key=value; run.sh fills this in for the results table",
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
        hidden = ("items", "pattern") if "want" in option.limits else ("items",)
        limits = ", ".join(f"{k} {v}" for k, v in option.limits.items() if k not in hidden)
        note = f" ({limits})" if limits else ""
        rows.append(
            f"| `{option.key}` | {option.type} | `{option.default!r}` | {option.help}{note} |"
        )
    return "\n".join(rows) + "\n"
