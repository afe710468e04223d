"""The plan of a run as data: what was measured, what follows, and its file ``autoconf.yaml``."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lmu_asr.config import Config
from lmu_asr.config_paths import shaping
from lmu_asr.errors import DocumentError
from lmu_asr.files import atomic_write_text, fingerprint
from lmu_asr.records import record
from lmu_asr.training.sizing.profile import Machine, Speech
from lmu_asr.yaml_files import read_yaml

CHANGES_NO_OUTPUT = True

HEADER = """\
# What was measured before training, and how batches are computed because of it.
# The plan decides how a batch is cut, never what is learnt. Delete this file to measure again;
# train.memory_mib, train.frame_limit, model.grad_checkpoint, train.precision and train.num_workers
# override it, train.autoconf=false turns it off. One MiB is 2^20 bytes; frames are those of features.
"""


@dataclass(frozen=True)
class BucketPlan:
    """How batches whose longest utterance has at most ``frames`` frames are computed.

    Attributes:
        frames, tokens, utterances: longest length, most tokens and size of the bucket.
        rows: utterances of that length in one process's share of a batch.
        micro_rows: how many of them are computed at once, at the most.
        micro_batches: into how many pieces the share is cut; 1: it fits whole.
        tensor_kib_per_frame, resident_kib_per_frame: memory that one more padded frame takes, in
            tensors and in resident memory of the process (on a CPU).
        predicted_tensor_mib, predicted_resident_mib: peaks at ``micro_rows``, from smaller steps.
        tensor_mib, resident_mib: the same, measured; None: not measured.
        seconds: forward and backward of the share; None: not measured.
        audio_hours_per_hour: of all processes together, were there only such batches.
    """

    frames: int
    tokens: int
    utterances: int
    rows: int
    micro_rows: int
    micro_batches: int
    tensor_kib_per_frame: float
    resident_kib_per_frame: float | None
    predicted_tensor_mib: float
    tensor_mib: float | None
    predicted_resident_mib: float | None
    resident_mib: float | None
    seconds: float | None
    audio_hours_per_hour: float | None

    @property
    def predicted_mib(self) -> float:
        """What counts against the budget."""
        return max(self.predicted_tensor_mib, self.predicted_resident_mib or 0.0)


@dataclass(frozen=True)
class Plan:
    """What was measured and what follows.

    Attributes:
        written_for: fingerprints of machine, model, speech and options.
        machine, speech, model: what there was to plan with.
        memory: free memory, and the share of it that a step may take, in MiB.
        grad_checkpoint: whether blocks are computed again in the backward pass, and why.
        precision: of autocast: ``float32``, ``bf16`` or ``fp16``, with seconds of each if measured.
        loading: seconds to load one batch, and loader processes.
        buckets: the longest one first.
        probes: every measured step.
        seconds: that measuring took.
    """

    written_for: dict[str, str]
    machine: dict[str, Any]
    model: dict[str, Any]
    speech: dict[str, Any]
    memory: dict[str, float]
    grad_checkpoint: dict[str, Any]
    precision: dict[str, Any]
    loading: dict[str, Any]
    buckets: tuple[BucketPlan, ...]
    probes: tuple[dict[str, Any], ...]
    seconds: float

    @property
    def limits(self) -> list[tuple[int, int]]:
        """Frames of the longest utterance up to which, and padded frames at once; shortest first.

        0 padded frames mean no limit; an empty list, that every batch fits whole.
        """
        if all(bucket.micro_batches == 1 for bucket in self.buckets):
            return []
        views = int(self.model["views"])
        return [
            (b.frames, b.micro_rows * b.frames * views if b.micro_batches > 1 else 0)
            for b in reversed(self.buckets)
        ]

    def summary(self) -> list[str]:
        """What was found, as lines for the log."""
        first, cut = self.buckets[0], [b for b in self.buckets if b.micro_batches > 1]
        lines = [
            f"memory: a step may take {self.memory['budget_mib']:.0f} MiB; the largest batch takes "
            f"{first.predicted_mib:.0f} MiB (tensors {first.predicted_tensor_mib:.0f} MiB) and "
            + (f"is cut into {first.micro_batches}" if first.micro_batches > 1 else "fits whole")
        ]
        if cut:
            lines.append(f"{len(cut)} of {len(self.buckets)} duration buckets are cut")
        if self.grad_checkpoint["used"] and not self.grad_checkpoint["asked"]:
            lines.append(
                f"blocks are computed again in the backward pass: {self.grad_checkpoint['why']}"
            )
        if self.precision.get("hint"):
            lines.append(str(self.precision["hint"]))
        lines.append(
            f"{self.loading['workers']} loader processes; measuring took {self.seconds:.1f} s"
        )
        return lines

    def table(self) -> str:
        """The buckets as a Markdown table."""
        rows = [
            "| frames up to | utterances | in a batch | at once | MiB predicted | measured "
            "| resident predicted | measured | s | audio-h/h |",
            "|" + "---|" * 10,
        ]
        for b in self.buckets:
            values: list[float | None] = [
                b.frames,
                b.utterances,
                b.rows,
                b.micro_rows,
                b.predicted_tensor_mib,
            ]
            values += [b.tensor_mib, b.predicted_resident_mib, b.resident_mib]
            values += [b.seconds, b.audio_hours_per_hour]
            rows.append("| " + " | ".join("-" if v is None else f"{v:g}" for v in values) + " |")
        return "\n".join(rows)

    def save(self, path: Path) -> None:
        """Write as YAML with a heading, atomically."""
        values = asdict(self)
        values["buckets"] = [asdict(bucket) for bucket in self.buckets]
        values["probes"] = list(self.probes)
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        atomic_write_text(path, HEADER + text)

    @classmethod
    def load(cls, path: Path, wanted: dict[str, str]) -> Plan | None:
        """Read a plan; None, with a line that says why, where it is not of what ``wanted`` says."""
        if not path.is_file():
            return None
        try:
            plan = record(cls, read_yaml(path), str(path))
        except DocumentError as error:
            logging.info("%s; not a plan of this version: measuring again", error)
            return None
        other = [name for name, key in wanted.items() if plan.written_for.get(name) != key]
        if other:
            logging.info("%s is of other %s: measuring again", path, " and ".join(other))
            return None
        return plan


def plan_keys(
    config: Config, machine: Machine, model: dict[str, Any], speech: Speech, processes: int
) -> dict[str, str]:
    """Fingerprints of everything that a plan depends on."""
    options = shaping(config, "train", "plan")
    of_model = {key: options.pop(key) for key in list(options) if key.startswith("model.")}
    parts: dict[str, Any] = {
        "hardware": machine.to_json(),
        "model": [model, of_model],
        "data": speech.to_json(),
        "options": [processes, config.graph.fsa, options],
    }
    return {name: fingerprint(part) for name, part in parts.items()}
