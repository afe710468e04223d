"""Whom a checkpoint belongs to: data, tokens and the options that shape the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lmu_asr.config import Config, options
from lmu_asr.config_paths import shaping
from lmu_asr.errors import CheckpointError
from lmu_asr.old_options import renamed_flat


@dataclass(frozen=True)
class Identity:
    """Whom a checkpoint belongs to: data, tokens and the configuration that shapes the weights."""

    manifest: str
    tokens: str
    config: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def check(self, saved: Mapping[str, Any], where: str) -> None:
        """Refuse a checkpoint of other data, tokens or configuration.

        Raises:
            CheckpointError: naming what differs and both values.
        """
        if not isinstance(saved, Mapping) or not isinstance(saved.get("config"), Mapping):
            raise CheckpointError(f"{where}: does not say what run it belongs to")
        for name in ("manifest", "tokens"):
            ours, other = getattr(self, name), str(saved.get(name))
            if other != ours:
                raise CheckpointError(
                    f"{where}: belongs to another {name} ({other[:12]}; now {ours[:12]}): "
                    "use another --exp-dir or remove this run's files to start anew"
                )
        # an option that the version before did not have was at what is its default now
        then = {
            **{option.key: option.default for option in options()},
            **renamed_flat(saved["config"]),
        }
        changed = [key for key, value in self.config.items() if then.get(key) != value]
        if changed:
            key = changed[0]
            raise CheckpointError(
                f"{where}: was made with {key}={then.get(key)!r}, now "
                f"{self.config[key]!r}"
                + (f" (and {len(changed) - 1} other keys)" if len(changed) > 1 else "")
                + ": set it back, or use another --variant or --exp-dir to start anew"
            )


def shaping_options(config: Config) -> dict[str, Any]:
    """Options that change the weights of a run, by dotted key."""
    return shaping(config, "train")
