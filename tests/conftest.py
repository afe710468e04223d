"""What all tests share: examples may take as long as a busy machine needs, and nothing leaks."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.leaks import Watch

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def seed_all() -> None:
    """Start the global generators anew, so that no draw depends on what ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[object]:
    """Seed before a fixture that several tests share: which test comes first is chance."""
    if fixturedef.scope != "function":
        seed_all()
    return (yield)


@pytest.fixture(scope="module", autouse=True)
def module_leaves_no_trace() -> Iterator[None]:
    """Fail the last test of a module whose shared fixtures leave something behind."""
    with Watch("fixtures of this module"):
        yield


@pytest.fixture(autouse=True)
def leaves_no_trace() -> Iterator[None]:
    """Fail a test that leaves something behind for the next one, and say what."""
    with Watch("this test"):
        seed_all()
        yield
        # Training in this process flushes denormals to zero, as it does in its own.
        torch.set_flush_denormal(False)
