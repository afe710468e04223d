"""Shards made on a Ray cluster: as tasks, each with one core, the same bytes as on this machine.

Machines must see the data under the same paths and have the same version of the package.
"""

from __future__ import annotations

import inspect
import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from lmu_asr.data.audio import reader as audio
from lmu_asr.data.features import fbank
from lmu_asr.data.features import part as shard
from lmu_asr.data.features.part import AHEAD, Shard, Task, make_shard
from lmu_asr.errors import DataError, LmuAsrError
from lmu_asr.files import atomic_write_text, fingerprint
from lmu_asr.ray_cluster import joined_cluster

MARK = "feats/.cluster"  # a file that every machine must see
CODE: tuple[ModuleType, ...] = (audio, fbank, shard)


@dataclass(frozen=True)
class _Place:
    """What a machine of the cluster must agree with."""

    directory: str
    mark: Path
    content: str
    code: str


def make_shards_on_cluster(tasks: Iterable[Task], out_dir: Path, nj: int) -> Iterator[Shard]:
    """Make shards on the cluster of ``RAY_ADDRESS``, or one of this machine; yield them in order.

    Args:
        tasks: the shards.
        out_dir: on a disk that all machines share.
        nj: shards made at once.

    Raises:
        DataError: Ray is not installed, a machine does not see the data or has other code, or a
            process was killed again and again.
    """
    try:
        import ray
    except ImportError as error:
        raise DataError("--ray needs Ray: ./utils/setup.sh --with-extras") from error
    place = _Place(str(Path.cwd()), (out_dir / MARK).resolve(), os.urandom(8).hex(), _code())
    atomic_write_text(place.mark, place.content)
    try:
        with joined_cluster(nj):
            work = ray.remote(num_cpus=1)(_make)
            coming: deque[ray.ObjectRef[Shard]] = deque()
            for task in tasks:
                coming.append(work.remote(task, place))
                if len(coming) >= AHEAD * nj:
                    yield _result(coming.popleft())
            while coming:
                yield _result(coming.popleft())
    finally:
        place.mark.unlink(missing_ok=True)


def _result(reference: object) -> Shard:
    import ray

    try:
        shard: Shard = ray.get(reference)  # type: ignore[call-overload]
        return shard
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LmuAsrError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise DataError(
            f"a process of the cluster was lost ({type(error).__name__}), perhaps for want of memory: "
            "run again to go on from the finished shards"
        ) from error


def _make(task: Task, place: _Place) -> Shard:
    """Run on a machine of the cluster: look around, then make the shard."""
    host = socket.gethostname()
    advice = "machines of the cluster must see the data under the same paths"
    try:
        os.chdir(place.directory)
        seen = place.mark.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"machine '{host}' does not see {place.mark} ({error}); {advice}") from None
    if seen != place.content:
        raise DataError(f"machine '{host}' sees another {place.mark}; {advice}")
    if _code() != place.code:
        raise DataError(f"machine '{host}' has another version of lmu_asr; install the same there")
    torch.set_num_threads(1)
    return make_shard(task)


def _code() -> str:
    return fingerprint([inspect.getsource(module) for module in CODE])
