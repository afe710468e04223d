"""What all tests share: examples may take as long as a busy machine needs, and nothing leaks."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import signal
import sys
from collections.abc import Iterator

import lhotse  # noqa: F401  (extends PATH and sys.path at import: not by whichever test comes first)
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.leaks import Watch

# What the shell of a user may carry that would send tests through a proxy, into a cluster, to an
# account, or make them ranks of a run that is not there.
FOREIGN = re.compile(
    r"(?i)^((https?|ftp|all|no)_proxy|(local_|group_)?(rank|world_size)|master_(addr|port)"
    r"|(torchelastic|accelerate|fsdp|slurm|aws|wandb|ray)_.*|lmu_asr_(command|stop_file|stopped_file))$"
)
for name in [name for name in os.environ if FOREIGN.match(name)]:
    del os.environ[name]

# A shell ignores SIGINT for its background jobs, nohup SIGHUP, and all children would inherit that.
# A handler that does nothing is as good here, and the children that tests start have the default.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


# Variables that an entry point sets for its whole process.
VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


@contextlib.contextmanager
def own_process() -> Iterator[None]:
    """Seed the global generators; give back at the end what an entry point sets for its process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    variables = {name: os.environ.get(name) for name in VARIABLES}
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_flush_denormal(False)
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def ray_in_process() -> Iterator[None]:
    """Give back at the end what Ray takes for itself when it starts in this process."""
    handler, path = signal.getsignal(signal.SIGTERM), list(sys.path)
    root = logging.root
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        sys.path[:] = path
        root.setLevel(level)
        root.handlers[:] = handlers


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """Make a fixture that several tests share the same whichever of them comes first."""
    if fixturedef.scope == "function":
        return (yield)
    with own_process():
        return (yield)


@pytest.fixture(scope="module", autouse=True)
def module_leaves_no_trace() -> Iterator[None]:
    """Fail the last test of a module whose shared fixtures leave something behind."""
    with Watch("fixtures of this module"):
        yield


@pytest.fixture(autouse=True)
def leaves_no_trace(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something behind for the next one, and say what."""
    is_extra = request.node.get_closest_marker("extras") is not None
    ray = ray_in_process() if is_extra else contextlib.nullcontext()
    with Watch("this test"), own_process(), ray:
        yield
