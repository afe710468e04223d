"""Documents of our own and of the user: configurations, stamps, results, checkpoints, lexica."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml

from lmu_asr.checkpoints.checkpoint import load_checkpoint, serialize, write_sealed
from lmu_asr.checkpoints.identity import Identity
from lmu_asr.config_files import config_to_dict, load_config
from lmu_asr.data.batches.index import Index, write_index
from lmu_asr.data.batches.sampler import read_utterances
from lmu_asr.decoding.trained import training_seconds
from lmu_asr.decoding.tune import Scales, Trial, Tuned, load_scales, save_scales
from lmu_asr.lang.lang import read_info
from lmu_asr.models.system import load_weights
from lmu_asr.scoring.record import Rate, Results, UtteranceResult, load_results, save_results
from lmu_asr.stages.stamp import Stamp
from lmu_asr.training.loop.metrics import read_metrics
from lmu_asr.training.loop.snapshot import restore, restore_rank
from lmu_asr.training.loop.state import RunState, random_states
from lmu_asr.training.parallel.processes import World
from lmu_asr.training.sizing.plan import BucketPlan, Plan
from lmu_asr.yaml_files import dump_yaml, parse_yaml
from tests.fuzz.harness import Target

CONFIG = b"""# a variant
base: [default.yaml]
corpus: {name: own, test: [test, other]}
model:
  encoder: lmu
  lmu: {thetas: [4.0, 8.0, 16]}
  bidirectional: false
train:
  lr: 3.0e-3
  epochs: 5
decode: {methods: [greedy, HLG]}
"""


def config() -> Target:
    """A variant with one base."""

    def read(folder: Path) -> str:
        values = config_to_dict(load_config(folder / "variant.yaml"))
        assert parse_yaml(dump_yaml(values), "saved") == values
        return "kept"

    files = {"default.yaml": b"lm: {order: 3}\n", "variant.yaml": CONFIG}
    return Target("config", files, read)


def override() -> Target:
    """What stands behind ``--set``."""

    def read(folder: Path) -> str:
        text = (folder / "set").read_bytes().decode("utf-8", "surrogateescape")
        config_to_dict(load_config(None, [text]))
        return "kept"

    return Target("override", {"set": b"corpus.test=[one, two, 'three']"}, read)


def stamp() -> Target:
    """A stamp: what is no stamp is none, and the stage runs again."""
    good = Stamp("k" * 64, {"code": "c", "inputs": "i"}, {"a/b": [3, 17], "c": []})

    def read(folder: Path) -> str:
        found = Stamp.load(folder / "stamp.json")
        if found is None:
            return "none"
        found.changed(good)
        found.broken_outputs(folder)
        return "stamp"

    data = json.dumps({"key": good.key, "parts": good.parts, "outputs": good.outputs}, indent=1)
    return Target("stamp", {"stamp.json": data.encode()}, read)


def _good_results() -> Results:
    rate = Rate(10.0, 5.0, None, 1, 2, 3, 60)
    rows = tuple(UtteranceResult(f"u{n}", 4, 1, 20, 2) for n in range(4))
    return Results("mini", "default", "HLG", "dev", "dev", "openfst", "word", rate, rate, rows,
                   scales={"lm_scale": 0.5})  # fmt: skip


def records() -> Target:
    """JSON records that later stages read: results, scales, the lang directory's, training's, metrics."""

    def read(folder: Path) -> str:
        load_results(folder / "results.json")
        load_scales(folder / "scales.json")
        read_info(folder)
        training_seconds(folder)
        read_metrics(folder / "metrics.jsonl")
        return "kept"

    files: dict[str, bytes] = {}
    files["lang.json"] = json.dumps({"unit": "char", "fingerprint": "f" * 64, "n": 3}).encode()
    files["training.json"] = json.dumps({"seconds": 12.5, "steps": 3}).encode()
    row = {"kind": "train", "step": 1, "epoch": 1, "loss": 0.5}
    files["metrics.jsonl"] = "".join(json.dumps(row) + "\n" for _ in range(3)).encode()
    tuned = Tuned("HLG", "dev", Scales(), 0.25, (Trial(Scales(), 0.25),))
    with tempfile.TemporaryDirectory() as folder:
        save_results(Path(folder, "results.json"), [_good_results()])
        save_scales(Path(folder, "scales.json"), {"HLG": tuned}, {"lang": "l"})
        files |= {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return Target("records", files, read)


def sealed(archive: bytes) -> bytes:
    """Put a seal on any bytes."""
    stream = io.BytesIO()
    write_sealed(stream, archive)
    return stream.getvalue()


def _run() -> tuple[torch.nn.Module, torch.optim.Optimizer, dict[str, Any], dict[str, Any]]:
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    ranks = {"0": {"random": random_states(torch.device("cpu")), "frame_limit": 0}}
    tensors = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ranks": ranks}
    meta = {"state": RunState(step=3).to_json(), "identity": IDENTITY.to_json(), "world_size": 1,
            "metrics": [{"kind": "train", "step": 1, "epoch": 1}]}  # fmt: skip
    return model, optimizer, tensors, meta


IDENTITY = Identity("m" * 64, "t" * 64, {"train.lr": 0.1})
WORLD = World(0, 1, 0, 1, torch.device("cpu"))


def checkpoint() -> Target:
    """A sealed checkpoint: refused, or the same."""
    _, _, tensors, meta = _run()

    def read(folder: Path) -> str:
        found = load_checkpoint(folder / "a.pt")
        assert found.meta == meta
        assert torch.equal(found.tensors["model"]["weight"], tensors["model"]["weight"])
        return "equal"

    return Target("checkpoint", {"a.pt": sealed(serialize(tensors, meta))}, read, text=False)


def resealed() -> Target:
    """A checkpoint whose seal is right and whose content is not what it should be."""
    model, optimizer, tensors, meta = _run()

    def read(folder: Path) -> str:
        found = load_checkpoint(folder / "a.pt")
        IDENTITY.check(found.meta.get("identity", {}), "a.pt")
        RunState.from_json(found.meta.get("state", {}))
        load_weights(model, found.weights, "a.pt")
        restore(found, model, optimizer, None)
        restore_rank(found, WORLD)
        return "taken"

    archive = serialize(tensors, meta)
    return Target("resealed", {"a.pt": archive}, read, text=False, remake=sealed)


def plan() -> Target:
    """The sizes that were measured: what is no plan is measured again."""
    bucket = {f.name: 2 for f in fields(BucketPlan)}
    values = {f.name: {} for f in fields(Plan)} | {"written_for": {"data": "d"}, "seconds": 1.5}
    values |= {"buckets": [bucket], "probes": []}

    def read(folder: Path) -> str:
        return "plan" if Plan.load(folder / "autoconf.yaml", {"data": "d"}) else "none"

    data = yaml.safe_dump(values).encode()
    return Target("plan", {"autoconf.yaml": data}, read)


CUTS = [
    {"id": f"u{n}", "duration": 1.5 + n, "supervisions": [{"text": "one two"}],
     "features": {"storage_type": "lilcom_chunky", "storage_path": "feats/a.lca",
                  "num_frames": 150, "storage_key": "0,10"}}
    for n in range(4)
]  # fmt: skip


def manifest() -> Target:
    """A manifest of stored features, compressed: refused, or the same."""

    def read(folder: Path) -> str:
        found = read_utterances(folder / "cuts.jsonl.gz")
        assert [u.id for u in found] == [cut["id"] for cut in CUTS]
        return "equal"

    data = gzip.compress("".join(json.dumps(cut) + "\n" for cut in CUTS).encode())
    return Target("manifest", {"cuts.jsonl.gz": data}, read, text=False)


def manifest_lines() -> Target:
    """A whole file of other lines."""

    def read(folder: Path) -> str:
        read_utterances(folder / "cuts.jsonl.gz")
        return "read"

    data = "".join(json.dumps(cut) + "\n" for cut in CUTS).encode()
    return Target("manifest lines", {"cuts.jsonl.gz": data}, read, remake=gzip.compress)


def index() -> Target:
    """The index of a large manifest."""

    def read(folder: Path) -> str:
        found = Index(folder / "cuts.index")
        if len(found) != len(CUTS):
            return "other cuts"
        list(map(found.__getitem__, range(len(found))))
        return "read"

    with tempfile.TemporaryDirectory() as folder:
        write_index(CUTS, Path(folder, "x"), lambda: {"manifest": [1, 2], "sha256": "s"})
        data = Path(folder, "x").read_bytes()
    return Target("index", {"cuts.index": data}, read, text=False)


TARGETS = {
    "manifest": manifest,
    "manifest lines": manifest_lines,
    "index": index,
    "config": config,
    "override": override,
    "stamp": stamp,
    "records": records,
    "checkpoint": checkpoint,
    "resealed": resealed,
    "plan": plan,
}
