"""Products by oneDNN equal those of float64, for any strides."""

import pytest
import torch

from lmu_asr.models.memory.kernels import matmul as module
from lmu_asr.models.memory.kernels.matmul import matmul, row_blocks


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 7), (200, 272, 512), (272, 333, 129)])
@pytest.mark.parametrize("plus", [False, True])
def test_product(monkeypatch, onednn, shape, plus):
    if not onednn:
        monkeypatch.setattr(module, "has_onednn", lambda: False)
    M, K, N = shape
    torch.manual_seed(M)
    c = torch.randn(M, N) if plus else None
    for a in (torch.randn(M, K), torch.randn(K, M).T, torch.randn(M, 2 * K)[:, ::2]):
        for b in (torch.randn(K, N), torch.randn(N, K).T):
            want = a.double() @ b.double() + (0.0 if c is None else c.double())
            assert (matmul(a, b, c) - want).norm() < 1e-6 * want.norm()


def test_taken_where_torch_has_it():
    assert module.has_onednn() == torch.backends.mkldnn.is_available()


def test_row_blocks_cover_all(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4000)
    for rows in (1, 7, 99, 1000):
        x = torch.empty(rows, 3)
        cuts = row_blocks(x, 100)
        assert [i for cut in cuts for i in range(cut.start, cut.stop)] == list(range(rows))
        assert max(cut.stop - cut.start for cut in cuts) <= 20
