"""Every wrong key, type and value is an error that names the file, the key and the closest one."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lmu_asr.config import Config, ModelConfig, options, options_markdown
from lmu_asr.config_files import (
    config_from_dict,
    config_to_dict,
    load_config,
    option_value,
    save_config,
)
from lmu_asr.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "unknown key 'train.lrr'; did you mean 'train.lr'"),
        ("train.learning_rate=1", "did you mean 'train.lr'"),
        ("decode.lr=1", "did you mean 'train.lr'"),
        ("trian.lr=1", "did you mean 'train.lr'"),
        ("lr=1", "did you mean 'train.lr'"),
        ("train.lr=abc", "train.lr.*abc"),
        ("train.epochs=1.5", "train.epochs.*1.5"),
        ("train.lr=-1", "below the least allowed, 0.0"),
        ("train.epochs=0", "below the least allowed, 1"),
        ("model.dropout=2", "above the most allowed, 0.9"),
        ("train.lr=nan", "finite"),
        ("model.encoder=lmuu", "did you mean lmu"),
        ("model.head=cct", "did you mean ctc"),
        ("model.lmu.memory_ordr=3", "did you mean 'model.lmu.memory_order'"),
        ("train.thetas=[3]", "did you mean 'model.lmu.thetas'"),
        ("model.lmu=3", "'model.lmu' is a section; name an option in it: model.lmu.memory_order"),
        ("model.lstm.hidden=3", "leave it out, or set model.encoder=lstm"),
        ("decode.methods=[gredy]", "did you mean greedy"),
        ("model.lmu.thetas=[0.5]", "model.lmu.thetas=0.5"),
        ("model.lmu.thetas=3", "model.lmu.thetas"),
        ("train", "want key=value"),
        ("train.lr=abc", "^--set train.lr=abc: "),
        ("train.lr=-1", "^--set train.lr=-1.0: below"),
        ("train.lr=[", "^--set train.lr=\\[: [^\\n]*$"),
        ("decode.tag=a/b", "^--set decode.tag=a/b: "),
        (
            "model=5",
            "^--set: model='5': 'model' is a section; name an option in it: model.encoder=",
        ),
        ("lm.text=null", "^--set lm.text=null: no value; .*write '' for an empty text"),
        ("corpus.test=007", "^--set corpus.test=007: want a list in square brackets"),
        ("seed=[1]", r"^--set seed=\[1\]: want one value of type int, not a list"),
        ("seed=", "^--set seed=: no value; leave the option out to keep its default$"),
    ],
)
def test_bad_override(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


@pytest.mark.parametrize("value", ["[{}]", "[null]", "[[]]"])
def test_a_list_takes_plain_values_alone(value: str) -> None:
    keys = [option.key for option in options() if isinstance(option.default, list)]
    assert "corpus.test" in keys and "model.lmu.thetas" in keys
    for key in keys:
        with pytest.raises(ConfigError, match=key):
            load_config(None, [f"{key}={value}"])


def test_a_limit_names_the_file_or_the_override_that_broke_it(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("train: {lr: 1e-3}\n")
    with pytest.raises(ConfigError, match=r"^--set train.epochs=0: below"):
        load_config(tmp_path / "good.yaml", ["train.epochs=0"])
    (tmp_path / "bad.yaml").write_text("train: {epochs: 0}\n")
    with pytest.raises(ConfigError, match=r"bad.yaml: train.epochs=0: below"):
        load_config(tmp_path / "bad.yaml", ["train.lr=1e-3"])
    assert load_config(tmp_path / "bad.yaml", ["train.epochs=2"]).train.epochs == 2


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        ".x",
        "-x",
        "a/b",
        "../a",
        "/a",
        "a\nb",
        "a\0b",
        "a\\b",
        "a\u2028b",
        "a" * 101,
        "a ",
        " ",
    ],
)
@pytest.mark.parametrize("key", ["variant", "corpus.id", "corpus.train", "corpus.dev"])
def test_no_name_leads_out_of_its_directory(name: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--set {key}=.*: want a name of letters"):
        load_config(None, [f"{key}={name}"])
    section, _, last = key.rpartition(".")
    values = {section: {last: name}} if section else {key: name}
    with pytest.raises(ConfigError, match=rf"^file: {key}=[^\n]*: want a name of letters"):
        config_from_dict(values, "file")


def test_text_is_taken_as_it_stands() -> None:
    """YAML would make a number of one, a comment of another."""
    for text in ("2024_01", "1e3", "007", "Übung 1", "a+b=c", "no"):
        assert load_config(None, [f"corpus.id={text}"]).corpus.id == text
    assert load_config(None, ["lm.text=a: b #c"]).lm.text == "a: b #c"
    assert load_config(None, ["corpus.id='007'"]).corpus.id == "007"
    assert load_config(None, ["corpus.id="]).corpus.id == ""


def test_overrides_are_typed() -> None:
    config = load_config(None, ["train.lr=1e-3", "model.lmu.thetas=[2,4]", "corpus.test=[a,b]"])
    assert config.train.lr == 1e-3
    assert config.model.encoder_options.thetas == [2.0, 4.0]
    assert config.corpus.test == ["a", "b"]


def test_bases_come_first(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {lr: 1e-3, epochs: 3}\n")
    (tmp_path / "b.yaml").write_text("base: [a.yaml]\ntrain: {epochs: 5}\n")
    config = load_config(tmp_path / "b.yaml", ["train.accumulate=2"])
    assert (config.train.lr, config.train.epochs, config.train.accumulate) == (1e-3, 5, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {lrr: 1}", "c.yaml: unknown key 'train.lrr'"),
        ("train: [1]", "c.yaml.*train"),
        ("- 1", "mapping"),
        ("a: [", "not valid YAML"),
        ("base: [c.yaml]", "circle"),
        ("base: [other.yml]", "other.yml: no such configuration"),
        ("base: c", r"/c: no such configuration \(base of .*c.yaml\); did you mean c.yaml\?"),
        ("model.dim: 64", r"c.yaml: 'model.dim' stands nested in a file: model: \{dim: \.\.\.\}"),
        ("model: 5", r"c.yaml: model=5: 'model' is a section; .*: model: \{encoder: \.\.\.\}"),
        ("model: {model.dim: 5}", "unknown key 'model.model.dim'; did you mean 'model.dim'"),
        ("lm: {text: }", "c.yaml: lm.text=None: no value; leave"),
        ("lm: {text: {a: b}}", "c.yaml: lm.text=.*: want one value of type str, not keys"),
        ("train: {lr: -1}", "c.yaml: train.lr=-1.0"),
        ("decode: {tag: a/b}", r"c.yaml: decode.tag=a/b: want \[A-Za"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_section_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model:\n  # dim: 64\ntrain: {epochs: 3}\n")
    assert load_config(tmp_path / "c.yaml") == load_config(None, ["train.epochs=3"])


def test_saved_configuration_is_the_same(tmp_path: Path) -> None:
    config = load_config(None, ["train.lr=3e-4", "variant=x"])
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config
    assert config_from_dict(config_to_dict(config), "dict") == config


def test_files_for_all_encoders_count_for_the_chosen_one(tmp_path: Path) -> None:
    size = (
        "model: {lmu: {memory_order: 16}, lmu_cell: {memory_order: 5}, transformer: {num_heads: 2}}"
    )
    (tmp_path / "size.yaml").write_text(size)
    (tmp_path / "cell.yaml").write_text("base: size.yaml\nmodel: {encoder: lmu_cell}")
    config = load_config(tmp_path / "cell.yaml")
    assert config.model.encoder_options.memory_order == 5
    again = load_config(tmp_path / "cell.yaml", ["model.encoder=lmu"])
    assert again.model.encoder_options.memory_order == 16
    on_top = load_config(tmp_path / "cell.yaml", [], [tmp_path / "size.yaml"])
    assert on_top == config
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    model = config_to_dict(config)["model"]
    assert {name for name, value in model.items() if isinstance(value, dict)} == {"lmu_cell", "ctc"}
    assert option_value(config, "model.lmu_cell.memory_order") == 5
    assert option_value(config, "model.lmu.memory_order") is None


def test_options_of_another_encoder_are_refused_where_the_user_set_them(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("model: {encoder: lstm, lmu: {memory_order: 3}}")
    with pytest.raises(
        ConfigError, match=r"own\.yaml: model\.lmu: options of model\.encoder=lmu, but"
    ):
        load_config(own)
    with pytest.raises(ConfigError, match=r"own\.yaml: model\.lmu: "):
        load_config(own, ["model.encoder=lmu"])
    own.write_text("model: {encoder: lstm, lstm: {hidden: 3}, lmu: }")
    assert load_config(own).model.encoder_options.hidden == 3
    with pytest.raises(ConfigError, match=r"^--set model\.lmu\.memory_order=3: .*lstm is chosen"):
        load_config(own, ["model.lmu.memory_order=3"])
    # the last choice counts, also for what stands before it
    sets = ["model.lmu.memory_order=3", "model.encoder=lmu"]
    assert load_config(own, sets).model.encoder_options.memory_order == 3


def test_options_go_with_their_encoder() -> None:
    lstm = ModelConfig(encoder="lstm")
    assert lstm.encoder_options.hidden == 0
    with pytest.raises(ConfigError, match=r"model\.encoder=lmu with options of .*encoders\.lstm"):
        replace(lstm, encoder="lmu")
    with pytest.raises(ConfigError, match="want one of lmu, lmu_cell"):
        ModelConfig(encoder="none")


def test_configuration_is_immutable() -> None:
    with pytest.raises(AttributeError):
        Config().train.lr = 1.0  # type: ignore[misc]


def test_every_option_has_help_and_is_documented() -> None:
    table = options_markdown()
    assert all(option.help and f"`{option.key}`" in table for option in options())
    assert (ROOT / "docs/options.md").read_text().endswith(table)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("egs/*/conf/*.yaml")), ids=lambda p: f"{p.parts[-3]}-{p.stem}"
)
def test_every_variant_is_valid(path: Path) -> None:
    load_config(path)


@pytest.mark.parametrize(
    ("override", "want"),
    [
        ("model.lmu.thetas=[]", "1 or more"),
        ("train.betas=[0.9]", "2"),
        ("augment.noise_snr=[1, 2, 3]", "2"),
    ],
)
def test_lists_have_the_length_that_is_read(override: str, want: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"want {want} value(s)")):
        load_config(None, [override])
