"""What all tests share: examples may take as long as a busy machine needs, and nothing leaks."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Training in this process flushes denormals to zero; the next test has them again."""
    yield
    torch.set_flush_denormal(False)
