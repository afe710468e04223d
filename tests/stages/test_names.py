"""Directories of variants that hold other things have other names; the defaults keep theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmu_asr.config import Config
from lmu_asr.config_paths import PROJECT, with_value
from lmu_asr.stages.names import features_name, graph_name, lang_name


def names(**options: Any) -> str:
    config = Config()
    for key, value in options.items():
        config = with_value(config, key.replace("__", "."), value)
    return "/".join((features_name(config), lang_name(config), graph_name(config)))


DEFAULT = "fbank80/lang-char/graph-3gram"
PHONE = {"lang__unit": "phone"}
BPE = {"lang__unit": "bpe"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, DEFAULT),
        (PHONE, "fbank80/lang-phone/graph-3gram"),
        (BPE, "fbank80/lang-bpe500/graph-3gram"),
        ({"lang__oov": "drop", "lang__bpe_type": "bpe"}, DEFAULT),  # characters have none
        ({"features__num_mel_bins": 40, "features__backend": "kaldifeat"},
         "fbank40-kaldifeat/lang-char/graph-3gram"),
        ({"features__sample_rate": 8000, "features__speed_perturb": [0.9, 1.1]},
         "fbank80-8000Hz-speed0.9,1.1/lang-char/graph-3gram"),
        ({"features__frame_length_ms": 32.0, "features__frame_shift_ms": 12.5},
         "fbank80-window32ms-shift12.5ms/lang-char/graph-3gram"),
        ({**BPE, "lang__bpe_type": "bpe"}, "fbank80/lang-bpe500-type_bpe/graph-3gram"),
        ({**PHONE, "lang__optional_silence": True, "lang__oov": "drop"},
         "fbank80/lang-phone-oov_drop-sil/graph-3gram"),
        ({"lm__order": 4, "lm__prune": 1e-8, "lm__rescore_order": 5, "lm__train_text": False},
         "fbank80/lang-char/graph-4gram-lmonly-prune1e-08-rescore5"),
        ({"graph__topology": "modified", "graph__kinds": ["H", "HL"]},
         "fbank80/lang-char/graph-3gram-modified-H+HL"),
    ],
)  # fmt: skip
def test_names(options: dict[str, Any], name: str) -> None:
    assert names(**options) == name


def test_paths_differ_by_hash_and_move_with_the_project() -> None:
    one, two = (names(lm__text=f"/data/{name}.txt") for name in "ab")
    assert one != two and one != names(lm__arpa="/data/a.txt")
    assert len(one) == len(DEFAULT) + len("-lm123456")
    own = names(**PHONE, lang__lexicon=str(PROJECT / "egs/yesno/lexicon.txt"))
    assert own == names(**PHONE, lang__lexicon="egs/yesno/lexicon.txt")
    assert Path(own).parts[1].startswith("lang-phone-lex")
