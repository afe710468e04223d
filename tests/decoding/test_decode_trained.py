"""Loading of the trained model: what it is checked against, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmu_asr.checkpoints.checkpoint import save_checkpoint
from lmu_asr.config import Config, DecodeConfig, FeaturesConfig, ModelConfig
from lmu_asr.decoding.trained import checkpoint_path, load_trained, training_seconds
from lmu_asr.errors import CheckpointError
from lmu_asr.files import fingerprint, sha256_file
from lmu_asr.lang.lang import Lang
from lmu_asr.models.inference.quant import is_quantized
from lmu_asr.models.inference.streaming_block import StreamingBlock
from lmu_asr.models.system import SpeechModel, build_model, save_model
from tests.decoding.fakes import make_lang
from tests.models.small import model_config

OPTIONS = {
    **{"dim": 16, "num_layers": 1, "subsampling_channels": 4, "bidirectional": False},
    **{"memory_order": 4, "thetas": [4.0]},
}
MODEL = model_config(OPTIONS)
CONFIG = Config(model=MODEL, features=FeaturesConfig(num_mel_bins=20))


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Lang:
    return make_lang(tmp_path_factory.mktemp("lang"), ["one two"])


def make_model(lang: Lang, config: ModelConfig = MODEL) -> SpeechModel:
    torch.manual_seed(0)
    return build_model(config, 20, lang.vocab_size).eval()


def save(model: SpeechModel, path: Path, tokens: str = "", **tensors: object) -> None:
    meta = {"identity": {"tokens": tokens}} if tokens else {}
    save_checkpoint(path, {"model": model.state_dict(), **tensors}, meta)


def test_checkpoint_of_training_gives_the_same_outputs(tmp_path: Path, lang: Lang) -> None:
    model = make_model(lang)
    save(model, tmp_path / "best.pt", fingerprint([lang.unit, lang.tokens]))
    trained = load_trained(CONFIG, tmp_path, lang)
    x, lens = torch.randn(2, 40, 20), torch.tensor([40, 31])
    assert torch.equal(trained.model(x, lens)[0], model(x, lens)[0])
    assert not trained.model.training
    assert trained.sha256 == sha256_file(tmp_path / "best.pt")
    assert trained.parameters == sum(p.numel() for p in model.parameters())


def test_weights_follow_the_configuration(tmp_path: Path, lang: Lang) -> None:
    model = make_model(lang)
    save(model, tmp_path / "best.pt")
    for decode, packed in (
        (DecodeConfig(), False),
        (DecodeConfig(streaming=True), not torch.cuda.is_available()),
        (DecodeConfig(weights="int8"), True),
    ):
        trained = load_trained(replace(CONFIG, decode=decode), tmp_path, lang)
        assert is_quantized(trained.model) == (decode.weights == "int8")
        assert any(isinstance(m, StreamingBlock) for m in trained.model.modules()) == packed
        assert trained.parameters == sum(p.numel() for p in model.parameters())


def test_running_average_is_preferred(tmp_path: Path, lang: Lang) -> None:
    model = make_model(lang)
    average = {name: value + 1 for name, value in model.state_dict().items()}
    save(model, tmp_path / "best.pt", ema=average)
    loaded = load_trained(CONFIG, tmp_path, lang).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in average.items())


def test_path_and_safetensors(tmp_path: Path, lang: Lang) -> None:
    model = make_model(lang)
    save_model(model, tmp_path / "model.safetensors")
    config = replace(CONFIG, decode=DecodeConfig(checkpoint=str(tmp_path / "model.safetensors")))
    loaded = load_trained(config, tmp_path / "elsewhere", lang).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_missing_checkpoint_lists_what_there_is(tmp_path: Path, lang: Lang) -> None:
    save(make_model(lang), tmp_path / "last.pt")
    with pytest.raises(
        CheckpointError, match=r"best\.pt: no such checkpoint .* has last\.pt; train"
    ):
        checkpoint_path(CONFIG, tmp_path)


def test_other_model_is_refused(tmp_path: Path, lang: Lang) -> None:
    save(make_model(lang, replace(MODEL, dim=32)), tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="weights of another model"):
        load_trained(CONFIG, tmp_path, lang)


def test_as_many_other_tokens_are_refused(tmp_path: Path, lang: Lang) -> None:
    save(make_model(lang), tmp_path / "best.pt", fingerprint(["char", ["<blk>", "x"]]))
    with pytest.raises(CheckpointError, match="trained on other tokens"):
        load_trained(CONFIG, tmp_path, lang)


def test_saved_model_of_another_vocabulary_is_refused(tmp_path: Path, lang: Lang) -> None:
    save_model(build_model(MODEL, 20, lang.vocab_size + 1), tmp_path / "m.safetensors")
    config = replace(CONFIG, decode=DecodeConfig(checkpoint=str(tmp_path / "m.safetensors")))
    with pytest.raises(CheckpointError, match=f"{lang.vocab_size + 1} tokens"):
        load_trained(config, tmp_path, lang)


def test_latency(tmp_path: Path, lang: Lang) -> None:
    features = CONFIG.features
    for lookahead, milliseconds in ((0, 30.0 + 25.0), (2, 110.0 + 25.0)):
        model = model_config(OPTIONS, lookahead=lookahead)
        save(make_model(lang, model), tmp_path / "best.pt")
        trained = load_trained(replace(CONFIG, model=model), tmp_path, lang)
        assert trained.latency_ms(features) == milliseconds
    for offline in (replace(MODEL, bidirectional=True), replace(MODEL, normalize="utterance")):
        save(make_model(lang, offline), tmp_path / "best.pt")
        trained = load_trained(replace(CONFIG, model=offline), tmp_path, lang)
        assert trained.latency_ms(features) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [('{"seconds": 12.5}', 12.5), ("{}", 0.0), ("{", 0.0), ("[]", 0.0), ('{"seconds": null}', 0.0)],
)
def test_training_time(tmp_path: Path, text: str, seconds: float) -> None:
    assert training_seconds(tmp_path) == 0.0
    (tmp_path / "training.json").write_text(text)
    assert training_seconds(tmp_path) == seconds
