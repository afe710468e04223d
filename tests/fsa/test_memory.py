"""Memory limits, and searches that go on with smaller beams."""

import resource
import subprocess
import sys

import pytest

from lmu_asr.errors import GraphError
from lmu_asr.fsa.memory import memory_limit, peak_bytes, with_smaller_beams
from lmu_asr.fsa.options import SearchOptions

FLAT = """
import logging, sys
import torch
from lmu_asr.fsa.options import SearchOptions
from lmu_asr.fsa import openfst
from lmu_asr.fsa.memory import with_smaller_beams
from tests.fsa.small import compile_small
logging.basicConfig(stream=sys.stdout, format="%(message)s")
letters = "abcdefgh"
small = compile_small([(a + b + c, (a, b, c)) for a in letters for b in letters for c in letters],
                      ["abc def"])
torch.manual_seed(0)
scores = torch.randn(400, small.lang.vocab_size).numpy()
fst = small.graphs["HL"].fst
search = lambda options: openfst._raw_lattice(fst, scores, options)
options = SearchOptions(search_beam=40.0, lattice_beam=40.0)
print(with_smaller_beams(search, options, extra=25 << 20) is not None)
"""


def test_limit_turns_a_runaway_allocation_into_memory_error() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), memory_limit(50 << 20):
        bytearray(500 << 20)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(500 << 20)) == 500 << 20


def test_beams_shrink_until_the_search_fits(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def search(options: SearchOptions) -> float:
        tried.append(options.search_beam)
        if options.search_beam > 6.0:
            raise MemoryError
        return options.lattice_beam

    options = SearchOptions(search_beam=16.0, lattice_beam=10.0, max_active=1000)
    assert with_smaller_beams(search, options) == pytest.approx(3.6)
    assert tried == pytest.approx([16.0, 9.6, 5.76])
    assert caplog.text.count("ran out of memory") == 2


def test_cuda_memory_counts_and_other_errors_pass() -> None:
    def out_of_memory(options: SearchOptions) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    def broken(options: SearchOptions) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(GraphError, match="even with search_beam"):
        with_smaller_beams(out_of_memory, SearchOptions())
    with pytest.raises(RuntimeError, match="shapes differ"):
        with_smaller_beams(broken, SearchOptions())


def test_lattice_of_flat_posteriors_survives_a_small_machine() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FLAT], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "ran out of memory" in run.stdout
    assert run.stdout.strip().endswith("True")


def test_the_peak_is_that_of_the_process_alone():
    held = bytearray(b"x") * (300 << 20)
    code = "from lmu_asr.fsa.memory import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(done.stdout) < len(held) < peak_bytes()
