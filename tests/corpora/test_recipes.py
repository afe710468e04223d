"""Each corpus from its server or directory to stored features, and its text rules."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from lmu_asr.config import CorpusConfig, FeaturesConfig
from lmu_asr.corpora import asterisk, corpus_names, fetch, get_corpus, gigaspeech
from lmu_asr.corpora.fetch import Archive
from lmu_asr.data.features.prepare import prepare_features
from lmu_asr.data.importing.validate import validate_and_repair
from lmu_asr.errors import DataError
from tests.corpora import fixtures
from tests.corpora.server import Server, serving
from tests.data.speech import tree_bytes

LIBRI = CorpusConfig(
    name="librispeech", train="train-clean-100", dev="dev-clean", test=["test-clean", "test-other"]
)
MINI_LIBRI = CorpusConfig(name="mini_librispeech", test=["dev-clean-2"])
GIGA = CorpusConfig(name="gigaspeech", train="XS", dev="DEV", test=["TEST"])
SERVED = {
    "yesno": (CorpusConfig(name="yesno"), {"1/waves_yesno.tar.gz": fixtures.yesno}),
    "fsdd": (CorpusConfig(name="fsdd"), {"v1.0.10.tar.gz": fixtures.fsdd}),
    "an4": (CorpusConfig(name="an4"), {"an4_sphere.tar.gz": fixtures.an4}),
    "aishell": (CorpusConfig(name="aishell"), {"33/data_aishell.tgz": fixtures.aishell}),
    "tedlium3": (CorpusConfig(name="tedlium3"), {"51/TEDLIUM_release-3.tgz": fixtures.tedlium3}),
    "speechocean762": (
        CorpusConfig(name="speechocean762"),
        {"101/speechocean762.tar.gz": fixtures.speechocean762},
    ),
    "librispeech": (
        LIBRI,
        {
            f"12/{part}.tar.gz": lambda part=part: fixtures.librispeech(part)
            for part in ("train-clean-100", "dev-clean", "test-clean", "test-other")
        },
    ),
    "mini_librispeech": (
        MINI_LIBRI,
        {
            f"31/{part}.tar.gz": lambda part=part: fixtures.librispeech(part)
            for part in ("train-clean-5", "dev-clean-2")
        },
    ),
}
OWN_COPY = {
    "commonvoice": (CorpusConfig(name="commonvoice"), fixtures.commonvoice),
    "gigaspeech": (GIGA, fixtures.gigaspeech),
    "switchboard": (
        CorpusConfig(name="switchboard", train="train", dev="dev", test=["eval2000"]),
        fixtures.switchboard,
    ),
}
FIRST = {  # of the training split: utterances, first text
    "yesno": (25, "no no no no yes no no yes"),
    "fsdd": (40, "zero"),
    "an4": (5, "rubout g m"),
    "aishell": (3, "绿 色 植 物 k 歌"),
    "tedlium3": (3, "it's the we've seen"),
    "speechocean762": (None, "mark is going to see elephant"),
    "librispeech": (6, "go do you hear one"),
    "mini_librispeech": (5, "go do you hear two"),
    "commonvoice": (3, "hello she said it's well known"),
    "switchboard": (11, "alrighty"),
    "gigaspeech": (2, "as they're leaving can kash pull zahra aside"),
}


@pytest.fixture
def server(monkeypatch):
    """A server without content, and no waiting between tries."""
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.0)
    with serving() as running:
        yield running


def serve(name: str, server: Server, monkeypatch) -> CorpusConfig:
    """Put a corpus's archives on the server, under the digests of the miniature."""
    config, contents = SERVED[name]
    digests = {}
    for path, make in contents.items():
        server.files[f"/{path}"] = fixtures.packed(make())
        digests[path] = "sha256:" + hashlib.sha256(server.files[f"/{path}"]).hexdigest()
    corpus = type(get_corpus(name))
    published = corpus.archives

    def archives(self, config):
        return [Archive(a.path, digests[a.path]) for a in published(self, config)]

    monkeypatch.setattr(corpus, "archives", archives)
    return dataclasses.replace(config, mirror=server.base)


def check_splits(name: str, config: CorpusConfig, source: Path, out: Path) -> None:
    """Run what stage 1 runs, over every split."""
    corpus = get_corpus(name)
    splits = corpus.manifests(config, source)
    features = FeaturesConfig(num_mel_bins=20)
    for split in dict.fromkeys([config.train, config.dev, *config.test]):
        kept, report = validate_and_repair(splits[split], split, features, corpus.normalize)
        training = split == config.train
        cuts = list(prepare_features(kept, split, features, out, 1, training, report))
        assert cuts and report.dropped == {}
        if training:
            count, text = FIRST[name]
            assert count in (None, len(cuts))
            assert cuts[0].supervisions[0].text == text
    names = [{s.id for s in splits[n].supervisions} for n in (config.train, config.dev)]
    assert not names[0] & names[1]


@pytest.mark.parametrize("name", SERVED)
def test_from_the_server_to_features(name, server, tmp_path, monkeypatch):
    config = serve(name, server, monkeypatch)
    first = next(iter(server.files))
    server.faults = {first: [503, ("drop", 2000), ("lie", b"another"), ("drop", 3000)]}
    source = tmp_path / "source"
    get_corpus(name).download(config, source, 0)
    assert server.count[first] == 5
    get_corpus(name).download(config, source, 0)
    assert server.count[first] == 5
    check_splits(name, config, source, tmp_path / "fbank")


@pytest.mark.parametrize("name", SERVED)
def test_refused(name, server, tmp_path):
    config = dataclasses.replace(SERVED[name][0], mirror=server.base)
    with pytest.raises(DataError, match=r"status 404.*corpus.download_dir"):
        get_corpus(name).download(config, tmp_path, 0)


@pytest.mark.parametrize("name", OWN_COPY)
def test_from_an_own_copy_to_features(name, tmp_path):
    config, make = OWN_COPY[name]
    for path, content in make().items():
        file = tmp_path / "source" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"corpus.source=DIR"):
        get_corpus(name).download(config, tmp_path, 0)
    check_splits(name, config, tmp_path / "source", tmp_path / "fbank")


@pytest.mark.parametrize("name", sorted({*SERVED, *OWN_COPY}))
def test_nothing_there(name, tmp_path):
    config = SERVED[name][0] if name in SERVED else OWN_COPY[name][0]
    with pytest.raises(DataError, match=str(tmp_path)):
        splits = get_corpus(name).manifests(config, tmp_path)
        for split in (config.train, config.dev):
            kept = splits.get(split)
            if kept is None:
                raise DataError(f"{tmp_path}: no utterances")
            validate_and_repair(kept, split, FeaturesConfig(), str)


@pytest.mark.parametrize("name", corpus_names())
def test_every_corpus_says_its_licence(name):
    assert get_corpus(name).name == name
    assert ":" in get_corpus(name).license_note


def test_librispeech_parts():
    corpus = get_corpus("librispeech")
    config = dataclasses.replace(LIBRI, train="train-960", test=["test-clean+test-other"])
    assert [a.name for a in corpus.archives(config)] == [
        *("train-clean-100.tar.gz", "train-clean-360.tar.gz", "train-other-500.tar.gz"),
        *("dev-clean.tar.gz", "test-clean.tar.gz", "test-other.tar.gz"),
    ]
    with pytest.raises(DataError, match="no part 'train-clean-99'"):
        corpus.archives(dataclasses.replace(LIBRI, train="train-clean-99"))


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        # documented by GigaSpeech's scoring: tags, hyphens, fillers; garbage is no utterance
        ("gigaspeech", "THIRTY-FIVE <COMMA> UH PEOPLE <PERIOD>", "thirty five people"),
        ("gigaspeech", "HELLO <NOISE>", ""),
        ("gigaspeech", "I <UNK> IT'S A-OKAY <EXCLAMATIONPOINT>", "i it's a okay"),
        ("tedlium3", "i 'm <unk> here {SMACK} [laughter]", "i'm here"),
        ("tedlium3", "the '90s", "the'90s"),
        # documented by the Mississippi State project and Hub5 scoring
        ("switchboard", "[silence] i- i think [vocalized-noise]", "i think"),
        ("switchboard", "th[is]- -[4]0 because_1 {alrighty}", "because alrighty"),
        ("switchboard", "[laughter-yes] [said/meant] um-hum uh", "yes said umhum"),
        ("switchboard", "(%hesitation) <b_aside> (uh-huh) at&t", "uhhuh at and t"),
        ("aishell", "ＡＴ Ｔ 公 司 2 0", "a t t 公 司 2 0"),
        ("commonvoice", "\u201cWhy?\u201d, he asked.", "why he asked"),
    ],
)
def test_text(name, text, wanted):
    assert get_corpus(name).normalize(text) == wanted


def test_switchboard_sides_are_channels(tmp_path):
    config, make = OWN_COPY["switchboard"]
    for path, content in make().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    splits = get_corpus("switchboard").manifests(config, tmp_path)
    for part in splits.values():
        for segment in part.supervisions:
            assert segment.channel == "AB".index(segment.speaker[-1])
    assert [s.duration for s in splits["eval2000"].supervisions] == [0.8, 0.9]


def test_gigaspeech_index_is_read_piece_by_piece(tmp_path, monkeypatch):
    for path, content in fixtures.gigaspeech().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    whole = get_corpus("gigaspeech").manifests(GIGA, tmp_path)
    monkeypatch.setattr(gigaspeech, "BLOCK", 100)
    again = get_corpus("gigaspeech").manifests(GIGA, tmp_path)
    for split, part in whole.items():
        assert list(again[split].supervisions) == list(part.supervisions)
    index = tmp_path / "GigaSpeech.json"
    index.write_text(index.read_text()[:-200])
    with pytest.raises(DataError, match="cut short"):
        get_corpus("gigaspeech").manifests(GIGA, tmp_path)
    index.write_text(json.dumps({"audio": []}))
    with pytest.raises(DataError, match="no list 'audios'"):
        get_corpus("gigaspeech").manifests(GIGA, tmp_path)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_asterisk_packages(tmp_path):
    names = {f"prompt-{i:02d}": f"Press {i % 10}, then # [beep]" for i in range(24)}
    files = fixtures.asterisk(names)
    config = CorpusConfig(name="asterisk", download_dir=str(tmp_path / "packages"))
    for package in asterisk.PACKAGES:
        fixtures.debian_package(package, files[package], tmp_path / "packages")
    source = tmp_path / "source"
    get_corpus("asterisk").download(config, source, 0)
    before = tree_bytes(source)
    (source / "wav" / "prompt-03.wav").unlink()
    get_corpus("asterisk").download(config, source, 0)
    assert tree_bytes(source) == before
    splits = get_corpus("asterisk").manifests(config, source)
    found = {s.id: s.text for part in splits.values() for s in part.supervisions}
    assert found == {**names, "digits-7": "seven"}
    assert get_corpus("asterisk").normalize(found["prompt-03"]) == "press three then pound"


def test_asterisk_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"no apt-get.*corpus.download_dir"):
        get_corpus("asterisk").download(CorpusConfig(name="asterisk"), tmp_path, 0)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_asterisk_package_cut_short_is_fetched_again(tmp_path):
    package = tmp_path / f"{asterisk.PACKAGES[0]}_1_all.deb"
    package.write_bytes(b"half")
    with pytest.raises(DataError, match="cannot be unpacked"):
        get_corpus("asterisk").download(CorpusConfig(name="asterisk"), tmp_path, 0)
    assert not package.exists()
