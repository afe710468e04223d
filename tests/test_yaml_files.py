"""YAML within limits: plain values, each key once, no anchors that multiply, nothing looked up."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config_files import load_config, save_config
from lmu_asr.errors import ConfigError
from lmu_asr.yaml_files import dump_yaml, parse_yaml, read_yaml

LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 12)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(
    f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}\n" for n in range(1, 24)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3", {"a": 1e-3}),
        ("a: 2024-01-02", {"a": "2024-01-02"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}", {"a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 3}}),
        ("a: ${oc.env:HOME}", {"a": "${oc.env:HOME}"}),
        ("", None),
    ],
)
def test_values(text: str, value: object) -> None:
    assert parse_yaml(text, "x") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "x.yaml:2: not valid YAML: found duplicate key a"),
        ("a:\n  - [", "x.yaml:2: not valid YAML"),
        (
            "a: !!python/object/apply:os.system [id]",
            "x.yaml:1: .*could not determine a constructor",
        ),
        ("[" * 5000, "more than 30 levels"),
        ("- " * 5000, "more than 30 levels"),
        (LAUGHS, "more than 100000 values"),
        (MERGES, "too many merged keys|more than"),
        ("a: &a [*a]", "more than 100000 values"),
        ("a: [" + "*x," * 100 + "]", "more than 50 aliases|undefined alias"),
        ("a: \0", "special characters"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: 1\n---\nb: 2", "x.yaml:2: not valid YAML"),
        ("? [1, {a: 1}]\n: 2", "unhashable key"),
        ("x" * (1 << 21), "more than 1048576 bytes"),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path, ConfigError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: [1]", r"base=\[1\]: want a list of files"),
        ("base: {a: b}", "want a list of files"),
        ("base: 3", "want a list of files"),
        ('base: ["a\\0b"]', "no name of a file"),
        (f"base: [{'x' * 300}.yaml]", "cannot be read: File name too long"),
        ("1: 2", "unknown key '1'"),
        ("model: {[a]: 2}", "unhashable|unknown key"),
        ("train: {lr: '???'}", r"train.lr: Value '\?\?\?'"),
        ("train: {lr: '${seed}'}", r"train.lr: Value '\$\{seed\}'"),
        ("model: {thetas: [${x}]}", "not valid YAML"),
        ("seed: {a: 1}", "seed"),
        ("corpus: 5", "corpus"),
    ],
)
def test_configuration_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_many_bases(tmp_path: Path) -> None:
    for n in range(12):
        (tmp_path / f"{n}.yaml").write_text(f"base: [{n + 1}.yaml, {n + 1}.yaml]\n")
    (tmp_path / "12.yaml").write_text("seed: 3\n")
    with pytest.raises(ConfigError, match="builds on more than 50 files"):
        load_config(tmp_path / "0.yaml")


def test_nothing_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    texts = ["${oc.env:SECRET}", "a ${seed} b", "???", "${"]
    (tmp_path / "x.yaml").write_text(
        "".join(["lm: {text: '${oc.env:SECRET}'}\n", f"decode: {{hot_words: {texts}}}\n"])
    )
    config = load_config(tmp_path / "x.yaml", ["lang.lexicon=${oc.env:SECRET}"])
    assert config.lm.text == config.lang.lexicon == "${oc.env:SECRET}"
    assert config.decode.hot_words == texts
    save_config(config, tmp_path / "resolved.yaml")
    assert "hunter2" not in (tmp_path / "resolved.yaml").read_text()
    assert load_config(tmp_path / "resolved.yaml") == config


TEXTS_AS_WRITTEN = ["0123", "2024_01", "1e3", "no", "on", "1:30", "0x1F", "1.50", ".5", "08", "-1"]


@pytest.mark.parametrize("text", TEXTS_AS_WRITTEN)
def test_texts_stay_as_they_are_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"lm: {{text: {text}}}\ntrain: {{freeze: [a, {text}]}}\n")
    config = load_config(path, [f"lang.lexicon={text}", f"decode.hot_words=[{text}]"])
    assert config.lm.text == config.lang.lexicon == text
    assert (config.train.freeze[1:], config.decode.hot_words) == ([text], [text])
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config


def test_an_anchor_is_text_only_where_text_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "seed: &n 1_0\nlm: &l {text: *n}\ndecode: {hot_words: &h [*n, on]}\ntrain: {epochs: *n}\n"
        "corpus: {<<: {id: *n}, test: *h}\n"
    )
    config = load_config(tmp_path / "x.yaml")
    assert (config.seed, config.train.epochs) == (10, 10)
    assert config.lm.text == config.corpus.id == "1_0"
    assert config.decode.hot_words == config.corpus.test == ["1_0", "on"]


def test_numbers_have_base_ten(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("seed: 0123\n")
    assert load_config(tmp_path / "x.yaml", ["train.epochs=010"]).train.epochs == 10
    assert load_config(tmp_path / "x.yaml").seed == 123
    with pytest.raises(ConfigError, match=r"seed.*1:30"):
        load_config(None, ["seed=1:30"])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=8))
def test_any_text_is_read_as_it_was_dumped(text: str) -> None:
    value = {"a": text, "b": [text, 1e-5, 3, True]}
    assert parse_yaml(dump_yaml(value).encode(), "x") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\nbase: ["\\ud800"]', r"x.yaml:2: not valid YAML: \\ud800 is half of a surrogate pair"),
        ('lm: {text: "a\\udfff"}', r"x.yaml:1: .*\\udfff is half of a surrogate pair"),
        ('decode: {hot_words: ["\\udcff"]}', r"x.yaml: decode.hot_words=.*\\udcff' is half"),
        ('"\\ud800": 1', r"x.yaml:1: .*\\ud800 is half"),
    ],
)
def test_half_of_a_surrogate_pair(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_names_of_files_need_not_be_utf8(tmp_path: Path) -> None:
    config = load_config(None, ["lm.text=caf\udce9"])
    save_config(config, tmp_path / "x.yaml")
    assert load_config(tmp_path / "x.yaml").lm.text == "caf\udce9"
    (tmp_path / "pair.yaml").write_text('decode: {hot_words: ["\\ud83d\\ude00"]}')
    assert load_config(tmp_path / "pair.yaml").decode.hot_words == ["\U0001f600"]
    with pytest.raises(ConfigError, match=r"--set corpus.mirror=.*half of a surrogate pair"):
        load_config(None, ["corpus.mirror=\udce9"])
