"""Which configuration a trained model is used with: that of the last decode, where there was one."""

from __future__ import annotations

from pathlib import Path

from lmu_asr.config_files import load_config, save_config
from lmu_asr.stages.context import trained_config


def test_the_language_model_is_that_of_the_last_decode(tmp_path: Path) -> None:
    trained, other = tmp_path / "config.yaml", tmp_path / "resolved.yaml"
    save_config(load_config(None, ["lm.order=3"]), trained)
    save_config(load_config(None, ["lm.order=4"]), other)
    assert trained_config(trained, []).lm.order == 3
    save_config(load_config(None, ["lm.order=2"]), tmp_path / "decode/config.yaml")
    assert trained_config(trained, []).lm.order == 2
    assert trained_config(trained, ["lm.order=5"]).lm.order == 5
    assert trained_config(other, []).lm.order == 4  # a file that the user names is what counts
    save_config(load_config(None, ["lm.order=6"]), tmp_path / "decode-wide/config.yaml")
    assert trained_config(trained, ["decode.tag=wide"]).lm.order == 6
