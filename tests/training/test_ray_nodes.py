"""Ray Train over two nodes of a cluster, here two of one machine, one of which loses its process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.outcome import differences, outcome
from tests.training.processes import command_of, descendants, finish, launch, wait_for_checkpoint
from tests.training.toy import Gate, run

pytestmark = [pytest.mark.slow, pytest.mark.extras]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture()
def cluster() -> Iterator[Any]:
    """A head and one more node, each with room for one process."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    nodes.add_node(**NODE)
    yield nodes
    nodes.shutdown()


def workers_of(node: Any) -> list[int]:
    """Training processes that a node has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = descendants(raylet)
    return [pid for pid in found if command_of(pid).startswith("ray::RayTrainWorker")]


def test_two_nodes_go_on_exactly_when_one_loses_its_process(tmp_path: Path, cluster: Any) -> None:
    run(tmp_path / "calm", size=2)
    options = ["--launcher", "ray", "--nproc", "1", "--num-nodes", "2", "--max-restarts", "1"]
    options += ["--storage", str(tmp_path / "ray")]
    module = ["tests.training.toy", str(tmp_path / "killed"), "toy.hold=5"]
    process = launch(options, module, {"RAY_ADDRESS": cluster.address})
    wait_for_checkpoint(tmp_path / "killed")
    workers = [workers_of(node) for node in (cluster.head_node, *cluster.worker_nodes)]
    assert [len(found) for found in workers] == [1, 1]
    os.kill(workers[1][0], signal.SIGKILL)
    Gate(tmp_path / "killed").open()
    status, output = finish(process)
    assert status == 0
    assert "going on from" in output
    assert differences(outcome(tmp_path / "calm"), outcome(tmp_path / "killed")) == []
