"""Tiny models gain nothing from threads, and a busy machine makes them wait for each other."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # given back for all tests
