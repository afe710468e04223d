"""Stand-ins for a model and a loader whose log-probabilities are known in advance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lmu_asr.config import LangConfig
from lmu_asr.data.batch import Batch
from lmu_asr.lang.lang import Lang
from lmu_asr.lang.prepare import prepare_lang
from lmu_asr.models.ctc import CtcHead


class FakeModel(nn.Module):
    """Reads the log-probabilities off the features, halving the frame rate.

    Features (N, T, V) hold unnormalised scores; output frame t is the mean of frames 2t and 2t + 1.
    """

    subsampling_factor = 2

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.head = 0, CtcHead(1, 2)

    def forward(self, features: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self._scores(features), lens // 2

    def init_state(self, n: int, device: object = None) -> Tensor:
        return torch.zeros(n, 0, 0)

    def step(self, chunk: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([state, chunk], dim=1) if state.shape[1] else chunk
        even = joined.shape[1] // 2 * 2
        return self._scores(joined[:, :even]), joined[:, even:]

    def flush(self, state: Tensor) -> tuple[Tensor, Tensor]:
        vocab = state.shape[2]
        return torch.zeros(state.shape[0], 0, vocab), state[:, :0]

    @staticmethod
    def _scores(x: Tensor) -> Tensor:
        n, t, v = x.shape
        pairs = x[:, : t // 2 * 2].reshape(n, t // 2, 2, v)
        return pairs.mean(dim=2).log_softmax(dim=-1)


def make_lang(path: Path, texts: Sequence[str], unit: str = "char", lexicon: str = "") -> Lang:
    """Prepare a lang directory of ``texts``."""
    return prepare_lang(LangConfig(unit=unit, lexicon=lexicon), list(texts), [], path)


def features_of(ids: Sequence[int], vocab: int, sharpness: float = 8.0) -> Tensor:
    """Features (T, V) that make :class:`FakeModel` say each token and then blank: T = 4 an id."""
    rows = [symbol for token in ids for symbol in (token, token, 0, 0)]
    return sharpness * torch.nn.functional.one_hot(torch.tensor(rows), vocab).float()


def batches(
    said: Mapping[str, tuple[str, str]], lang: Lang, size: int = 2, sharpness: float = 8.0
) -> Iterator[Batch]:
    """Batches of utterances: id -> (reference, what the model will say)."""
    items = list(said.items())
    for start in range(0, len(items), size):
        part = items[start : start + size]
        frames = [features_of(lang.encode(heard), lang.vocab_size) for _, (_, heard) in part]
        yield Batch(
            nn.utils.rnn.pad_sequence(frames, batch_first=True),
            torch.tensor([len(f) for f in frames]),
            [ref for _, (ref, _) in part],
            [i for i, _ in part],
            [len(f) * 0.01 for f in frames],
        )
