"""What a launcher is asked to start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STORE_FILE = "LMU_ASR_STORE_FILE"  # so that no port is open: a stray message could end the run


@dataclass(frozen=True)
class Launch:
    """What to start where.

    ``processes`` are those of one machine, each with a GPU of its own unless ``gpus`` is 0.
    """

    launcher: str
    processes: int
    gpus: int
    num_nodes: int
    node_rank: int
    master_addr: str
    master_port: int
    max_restarts: int
    storage: Path
    module: str
    arguments: tuple[str, ...]

    @property
    def module_command(self) -> list[str]:
        """The module and its arguments, as Python takes them."""
        return ["-m", self.module, *self.arguments]
