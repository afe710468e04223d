"""Names of prepared directories: what differs from the defaults is in the name.

So variants that differ never take each other's directories. The defaults have the short names.
"""

from __future__ import annotations

from typing import Any

from lmu_asr.config import Config, FeaturesConfig, GraphConfig, LangConfig, LmConfig
from lmu_asr.config_paths import portable
from lmu_asr.files import fingerprint


def features_name(config: Config) -> str:
    """Directory of features, such as ``fbank80-8000Hz-speed0.9,1.1``."""
    own, usual = config.features, FeaturesConfig()
    parts = [
        own.backend,
        f"{own.sample_rate}Hz",
        f"window{own.frame_length_ms:g}ms",
        f"shift{own.frame_shift_ms:g}ms",
        f"dither{own.dither:g}",
        f"speed{','.join(f'{factor:g}' for factor in own.speed_perturb)}",
        f"from{own.min_duration:g}s",
        f"to{own.max_duration:g}s",
    ]
    keys = (
        *("backend", "sample_rate", "frame_length_ms", "frame_shift_ms", "dither"),
        *("speed_perturb", "min_duration", "max_duration"),
    )
    return "-".join([f"fbank{own.num_mel_bins}", *_other(own, usual, keys, parts)])


def lang_name(config: Config) -> str:
    """Directory of tokens and lexicon, such as ``lang-phone-lex3f2a1b``."""
    own, lm = config.lang, config.lm
    size = f"{own.bpe_vocab_size}" if own.unit == "bpe" else ""
    found = [f"lang-{own.unit}{size}"]
    if own.unit == "bpe":
        found += _other(own, LangConfig(), ("bpe_type",), [f"type_{own.bpe_type}"])
    if own.unit == "phone":
        parts = [f"lex{_short('lang.lexicon', own.lexicon)}", f"oov_{own.oov}", "sil"]
        found += _other(own, LangConfig(), ("lexicon", "oov", "optional_silence"), parts)
    words = [f"lm{_short('lm.text', lm.text)}", f"arpa{_short('lm.arpa', lm.arpa)}"]
    words += [f"most{lm.max_words}"]
    return "-".join([*found, *_other(lm, LmConfig(), ("text", "arpa", "max_words"), words)])


def graph_name(config: Config) -> str:
    """Directory of n-gram model and graphs within that of the lang: its text is in that name."""
    lm, graph = config.lm, config.graph
    parts = ["lmonly", f"prune{lm.prune:g}", f"rescore{lm.rescore_order}"]
    found = _other(lm, LmConfig(), ("train_text", "prune", "rescore_order"), parts)
    parts = [graph.topology, "+".join(graph.kinds)]
    found += _other(graph, GraphConfig(), ("topology", "kinds"), parts)
    return "-".join([f"graph-{lm.order}gram", *found])


def _other(own: Any, usual: Any, keys: tuple[str, ...], parts: list[str]) -> list[str]:
    """The parts of a name whose options are not as usual."""
    pairs = zip(keys, parts, strict=True)
    return [part for key, part in pairs if getattr(own, key) != getattr(usual, key)]


def _short(key: str, path: str) -> str:
    """Six hexadecimal digits for a path; of one in the project the same wherever that lies."""
    return fingerprint(portable(key, path))[:6]
