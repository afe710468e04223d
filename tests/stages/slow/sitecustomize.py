"""Makes a stage wait at a known moment: every Python process below a test finds this at its start.

``LMU_ASR_TEST_PAUSE`` holds a pattern of file names and a mark: a process that is about to move such a
file into place makes the mark, then waits; with a number behind the mark, only where so many such files
are in that directory, or training after so many steps, and all else is as without. Training waits after every step until it is asked to stop, a second at most.
"""

import fnmatch
import importlib.util
import os
import sys
import time
from pathlib import Path

PATTERN, MARK, COUNT = [*os.environ.get("LMU_ASR_TEST_PAUSE", "").split(":"), "", ""][:3]


def is_due(target):
    path = Path(target)
    if not fnmatch.fnmatch(path.name, PATTERN):
        return False
    return not COUNT or len([*path.parent.glob(PATTERN)]) >= int(COUNT)


def pause_before(replace):
    def wrapper(source, target, **kwargs):
        if is_due(target):
            Path(MARK).touch()
            time.sleep(600)  # it is stopped before
        return replace(source, target, **kwargs)

    return wrapper


def small_shards(module):
    """Stage 1 starts its pool for seconds of audio."""
    if COUNT:
        return
    module.LEAST_SECONDS, module.SHARDS, module.INLINE_SECONDS = 2.0, 1000, 0.0


def slow_steps(module):
    after = module.Trainer._after_step

    def wrapper(self, sums):
        after(self, sums)
        if COUNT and self.state.step <= int(COUNT):
            return
        Path(MARK).touch()
        end = time.monotonic() + 1.0  # of two processes one may be asked alone
        while not self.stop.asked and time.monotonic() < end:
            time.sleep(0.01)

    module.Trainer._after_step = wrapper


class Changes:
    """Changes modules as they are imported."""

    changes = {  # noqa: RUF012
        "lmu_asr.data.features.extraction": small_shards,
        "lmu_asr.training.loop.trainer": slow_steps,
    }

    def find_spec(self, name, path=None, target=None):
        change = self.changes.pop(name, None)
        spec = importlib.util.find_spec(name) if change else None
        if spec is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), change(module))
        return spec


if MARK:
    os.replace = pause_before(os.replace)
    sys.meta_path.insert(0, Changes())
