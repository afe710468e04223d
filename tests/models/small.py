"""Small models: a configuration from plain names, wherever the options of the encoder stand."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from lmu_asr.config import CommonModelConfig, ModelConfig
from lmu_asr.registry import ENCODERS

SMALL = {"dim": 8, "num_layers": 2, "thetas": [3.0, 9.0], "memory_order": 4, "num_heads": 2}


def model_config(*parts: dict[str, Any], **values: Any) -> ModelConfig:
    """Return the configuration of the values, the last of each name.

    Options of encoders that are not chosen are left out; ``thetas`` are also those of layers.
    """
    values = {name: value for part in (*parts, values) for name, value in part.items()}
    common = {f.name: values[f.name] for f in fields(CommonModelConfig) if f.name in values}
    kind = ENCODERS.options(values.get("encoder", "lmu"))
    values["layer_thetas"] = values.get("thetas", kind().__dict__.get("layer_thetas"))
    own = {name: values[name] for name in kind.__dataclass_fields__ if name in values}
    return ModelConfig(**common, encoder_options=kind(**own))
