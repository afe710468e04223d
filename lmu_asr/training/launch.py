"""Starts torchrun so that signals end a run well: ``python -m lmu_asr.training.launch`` and torchrun's own options.

torchrun answers SIGTERM with failure, even where every process has saved itself and left with
success, and SIGUSR1 ends torchrun alone and leaves its processes behind. Here both go to the
training processes themselves, which save and leave; torchrun then ends with their status.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from lmu_asr.training.distributed import die_with_parent
from lmu_asr.training.interrupt import SIGNALS


def launch(arguments: Sequence[str]) -> int:
    """Run torchrun with ``arguments``; returns its exit status."""
    child = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        start_new_session=True,  # a signal to the whole group must not reach torchrun
        preexec_fn=die_with_parent,
    )

    def forward(number: int, frame: FrameType | None) -> None:
        for pid in children(child.pid):
            os.kill(pid, signal.SIGTERM)

    for number in SIGNALS:
        signal.signal(number, forward)
    signal.signal(signal.SIGINT, lambda *_: child.send_signal(signal.SIGINT))
    return child.wait()


def children(pid: int) -> list[int]:
    """Processes that ``pid`` has started and that are alive."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(text) for text in task.read_text().split()]
    return found


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
