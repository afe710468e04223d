"""LF-MMI against sums over every path, and what it promises."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmu_asr.config_files import config_from_dict
from lmu_asr.errors import ConfigError, LangError
from lmu_asr.lang.lang import Lang
from lmu_asr.models.ctc import CtcHead
from lmu_asr.models.losses.ctc import ctc_loss
from lmu_asr.models.losses.lf_mmi import Denominator, LfMmiLoss, TokenModel
from tests.lang.test_kneser_ney import reference
from tests.models.losses.test_ctc import collapsed, random_log_probs
from tests.training.toy import ToyLang

TEXTS = [[1, 2, 2], [2, 1], [3], [1, 1, 3, 2], []]


def model(order: int) -> TokenModel:
    return TokenModel(TEXTS, 4, order)


def sum_of_paths(log_probs: Tensor, tokens: TokenModel) -> Tensor:
    """Log of the sum over all paths, each one's sequence weighted: ``(T, V)`` float64."""
    scores = []
    for path in itertools.product(range(4), repeat=len(log_probs)):
        frames = log_probs[torch.arange(len(path)), list(path)].sum()
        scores.append(frames + tokens.score(collapsed(path)))
    return torch.stack(scores).logsumexp(0)


@pytest.mark.parametrize("order", [2, 3])
def test_denominator_is_the_sum_over_all_paths(order: int) -> None:
    tokens, lens = model(order), [5, 3, 1]
    logits = (3 * random_log_probs(3, 5, 4)).requires_grad_()
    log_probs = logits.log_softmax(-1)
    got = Denominator(tokens).log_sum(log_probs, torch.tensor(lens))
    exact = log_probs.double()
    want = torch.stack([sum_of_paths(exact[n, : lens[n]], tokens) for n in range(3)])
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
    pick = torch.tensor([1.0, -0.5, 2.0])
    ours, theirs = (
        torch.autograd.grad(s, logits, retain_graph=True)[0]
        for s in (got @ pick, want @ pick.double())
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def conditional(rows: dict[tuple[str, ...], tuple[float, float]], gram: tuple[str, ...]) -> float:
    """p(last word | the words before), backed off by the definition."""
    if gram in rows:
        return rows[gram][0]
    return rows.get(gram[:-1], (1.0, 1.0))[1] * conditional(rows, gram[1:])


@pytest.mark.parametrize("order", [2, 3])
def test_the_token_model_is_the_ngram_model(order: int) -> None:
    """Every entry is Kneser-Ney's by definition; token 4, not in the texts, has what <unk> has."""
    tokens, V = TokenModel(TEXTS, 5, order), 5
    rows = reference([" ".join(map(str, text)) for text in TEXTS], order)
    names = ["<s>", "1", "2", "3", "<unk>", "</s>"]
    want = torch.zeros(V if order == 3 else 1, V, V + 1, dtype=torch.float64)
    for a, b in itertools.product(range(len(want)), range(V)):
        if a and not b:
            continue  # nothing comes before the start
        past = (names[a], names[b])[3 - order :] if b else ("<s>",)
        found = [conditional(rows, (*past, name)) for name in names[1:]]
        want[a, b, 1:] = torch.tensor(found, dtype=torch.float64) / sum(found)
    assert tokens.probs.shape == want[..., :V].shape and tokens.ends.shape == want[..., V].shape
    torch.testing.assert_close(tokens.probs.double(), want[..., :V], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(tokens.ends.double(), want[..., V], rtol=1e-6, atol=1e-9)
    chain = [("<s>", "3", "1"), ("3", "1", "</s>")]
    logs = [math.log(conditional(rows, ("<s>", "3")))]
    logs += [math.log(conditional(rows, gram[3 - order :])) for gram in chain]
    assert tokens.score([3, 1]) == pytest.approx(sum(logs), rel=1e-5)


@pytest.mark.parametrize("order", [2, 3])
def test_the_loss_is_a_negative_log_posterior(order: int) -> None:
    """Over all sequences of at most T tokens the posteriors of LF-MMI sum to 1."""
    loss = LfMmiLoss(TEXTS, 4, order, ctc_loss, 0.0)
    log_probs, T = random_log_probs(1, 4, 4), 4
    sequences = {tuple(collapsed(path)) for path in itertools.product(range(4), repeat=T)}
    posteriors = [
        math.exp(-loss(log_probs, torch.tensor([T]), [list(sequence)]).item())
        for sequence in sequences
    ]
    assert max(posteriors) < 1.0 and sum(posteriors) == pytest.approx(1.0, rel=1e-5)


def test_long_and_hopeless_posteriors_stay_finite() -> None:
    """400 frames, each sure of a token of its own: nothing under- or overflows."""
    logits = torch.full((2, 400, 4), -60.0)
    logits[:, torch.arange(400), torch.arange(400) % 4] = 0.0
    log_probs = logits.log_softmax(-1).requires_grad_()
    loss = LfMmiLoss(TEXTS, 4, 3, ctc_loss, 0.1)(log_probs, torch.tensor([400, 7]), [[1], [3, 2]])
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(log_probs.grad).all()
    assert (log_probs.grad[1, 7:] == 0).all()


def test_share_of_ctc_is_added_and_too_few_frames_are_infinite() -> None:
    log_probs, lens, targets = random_log_probs(2, 6, 4), torch.tensor([6, 1]), [[2, 1], [1, 1]]
    plain, more = (
        LfMmiLoss(TEXTS, 4, 3, ctc_loss, s)(log_probs, lens, targets) for s in (0.0, 0.5)
    )
    assert plain[1] == more[1] == math.inf
    torch.testing.assert_close(more[0] - plain[0], 0.5 * ctc_loss(log_probs, lens, targets)[0])


def test_only_the_last_output_is_trained_by_it(tmp_path: Path) -> None:
    config = config_from_dict({"model": {"ctc": {"loss": "lf_mmi", "inter_ctc": 0.25}}}, "test")
    lang = Lang(tmp_path, "char", ["<blk>", "▁", "a", "b"], ["<eps>"], [])
    head = CtcHead(4, lang.vocab_size)
    head.prepare(config, lang, ["a b", "b a a", "not known"])
    loss = head.rule
    V, lens, targets = lang.vocab_size, torch.tensor([8, 8]), [[1, 2]]
    last, inner = random_log_probs(1, 8, V), random_log_probs(1, 8, V + 1)[..., :V].log_softmax(-1)
    got = loss(torch.cat([last, inner]), lens, targets)
    assert loss.last is not None
    want = 0.75 * loss.last(last, lens[:1], targets) + 0.25 * ctc_loss(inner, lens[:1], targets)
    torch.testing.assert_close(got, want)


def test_too_many_tokens_no_text_and_no_lang_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"model.ctc.mmi_order=3: 300 tokens .* use model.ctc.mmi_order=2"
    ):
        TokenModel(TEXTS, 300, 3)
    with pytest.raises(ConfigError, match="use fewer tokens"):
        TokenModel(TEXTS, 5000, 2)
    with pytest.raises(LangError, match="no sentence"):
        TokenModel([], 4, 2)
    config = config_from_dict({"model": {"ctc": {"loss": "lf_mmi"}}}, "test")
    with pytest.raises(ConfigError, match="needs a lang directory"):
        CtcHead(4, 5).prepare(config, ToyLang(), ())
