"""Commands that a test starts, stops by a signal at a known moment, and counts the orphans of."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT)
BY = "LMU_ASR_TEST_ID"


def take_signals() -> None:
    """Undo what a background job of a script and nohup have: some of the signals ignored."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@dataclass
class Started:
    """A command in a session and a group of its own; whatever it starts inherits a mark."""

    command: Sequence[str]
    folder: Path
    pattern: str = ""
    cwd: Path = ROOT
    after: int | None = None  # files that are there already, or steps, before it pauses
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mark, self.log = self.folder / self.name, self.folder / f"{self.name}.log"
        paths = [str(ROOT), *([str(HERE / "slow")] if self.pattern else [])]
        env = {**os.environ, BY: self.name, "PYTHONPATH": os.pathsep.join(paths)}
        env.pop("LMU_ASR_COMMAND", None)
        if self.pattern:
            env["LMU_ASR_TEST_PAUSE"] = f"{self.pattern}:{self.mark}"
            if self.after is not None:
                env["LMU_ASR_TEST_PAUSE"] += f":{self.after}"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                env=env,
                cwd=self.cwd,
                start_new_session=True,
                preexec_fn=take_signals,
            )

    def wait_for(self, path: Path, seconds: float = 600) -> None:
        """Wait until a file is there, and the command not at its end."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"never reached {path}:\n{self.output()}")
            time.sleep(0.02)

    def stop(self, number: signal.Signals, to_group: bool) -> tuple[int, str]:
        """Send a signal at the moment of the mark; returns the status and what was written since."""
        self.wait_for(self.mark)
        before = self.log.stat().st_size
        (os.killpg if to_group else os.kill)(self.process.pid, number)
        return self.finish(), self.output()[before:]

    def finish(self, seconds: float = 600) -> int:
        """Wait for the end; returns the status."""
        try:
            return self.process.wait(seconds)
        finally:
            self.end()

    def end(self) -> None:
        """Note the orphans, then leave none whatever a test finds."""
        self.process.poll()
        self.orphans = [pid for pid in self.alive() if pid != self.process.pid]
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)

    def alive(self) -> list[int]:
        """Processes of this command that run."""
        wanted, found = f"{BY}={self.name}".encode(), []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marked = wanted in (path / "environ").read_bytes().split(b"\0")
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                if marked and state not in "ZX":
                    found.append(int(path.name))
        return found

    def output(self) -> str:
        """What was written so far."""
        return self.log.read_text(errors="replace")
