"""Processes that do not come, or that come again, while the others wait for them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from lmu_asr.errors import TrainingError
from lmu_asr.training.parallel import joining
from lmu_asr.training.parallel.joining import joined_world
from tests.training.outcome import differences, outcome
from tests.training.processes import NO_TORCHRUN, command_of, descendants, finish, launch
from tests.training.toy import free_port, run

SECOND = 1 / 60


@pytest.fixture()
def second_of_three(monkeypatch: pytest.MonkeyPatch) -> int:
    """Describe this process as rank 1 of three that torchrun has started; returns the store's port."""
    port = free_port()
    values = {
        "RANK": 1,
        "WORLD_SIZE": 3,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_RESTART_COUNT": 0,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    return port


class Hand:
    """A clock that only waiting moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waited = 0.0
        monkeypatch.setattr(joining.time, "monotonic", lambda: 100.0 + self.waited)
        monkeypatch.setattr(joining.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.waited += seconds


@pytest.fixture()
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    return Hand(monkeypatch)


def agents_store(port: int) -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)


def join(minutes: float) -> None:
    with joined_world(prefer_gpu=False, minutes=minutes):
        raise AssertionError("joined without the others")


def test_who_did_not_come_is_named(second_of_three: int, hand: Hand) -> None:
    store = agents_store(second_of_three)
    store.add("here-0-0", 1)
    store.add("count-0", 1)
    with pytest.raises(TrainingError, match=r"rank 1: rank 2 of 3 did not join within 0\.01"):
        join(SECOND)
    assert hand.waited == pytest.approx(1.0, abs=joining.POLL_SECONDS * 1.01)


def test_one_that_starts_again_waits_twice_as_long(
    second_of_three: int, monkeypatch: pytest.MonkeyPatch, hand: Hand
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    store = agents_store(second_of_three)
    store.add("count-0", 3)  # those of the attempt before are not these
    with pytest.raises(TrainingError, match="rank 0, 2 of 3 did not join"):
        join(SECOND)
    assert hand.waited == pytest.approx(2.0, abs=joining.POLL_SECONDS * 1.01)


def test_a_later_attempt_is_noticed_at_once(second_of_three: int, hand: Hand) -> None:
    store = agents_store(second_of_three)
    store.add("count-1", 1)
    with pytest.raises(TrainingError, match="was started again before all had joined"):
        join(5.0)
    assert hand.waited == 0.0


def test_no_store_to_be_found(second_of_three: int) -> None:
    with pytest.raises(TrainingError, match="has gone or does not answer"):
        join(SECOND)


def test_a_size_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(TrainingError, match="WORLD_SIZE=2, but MASTER_ADDR or MASTER_PORT"):
        join(SECOND)


@NO_TORCHRUN
@pytest.mark.slow
def test_two_nodes_start_a_process_again_that_died_while_joining(tmp_path: Path) -> None:
    """The other must not wait for as long as a collective may take."""
    run(tmp_path / "calm", size=2)
    options = ["--launcher", "torchrun", "--num-nodes", "2", "--max-restarts", "1"]
    options += ["--master-port", str(free_port())]
    module = ["tests.training.toy", str(tmp_path / "killed")]
    agents = [launch([*options, "--node-rank", rank], module) for rank in ("0", "1")]
    os.kill(worker_below(agents[1].pid), signal.SIGKILL)
    ended = [finish(agent) for agent in agents]
    assert [status for status, _ in ended] == [0, 0]
    assert "was started again before all had joined" in ended[0][1]
    assert differences(outcome(tmp_path / "calm"), outcome(tmp_path / "killed")) == []


def worker_below(pid: int, seconds: float = 600) -> int:
    """The training process below a launcher, as soon as it is there: it has joined nobody yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for child in descendants(pid):
            line = command_of(child)
            # a child that has not yet become another program has its parent's command line
            if "-u -m tests.training.toy" in line and "torch.distributed.run" not in line:
                return child
        time.sleep(0.02)
    raise TimeoutError("torchrun has started no process")
