"""Every check of a lang directory trips on a fault made for it, and on nothing sound."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmu_asr.config import LangConfig
from lmu_asr.errors import LangError
from lmu_asr.lang.lang import content_fingerprint
from lmu_asr.lang.lang_files import FSTS, TABLES, TEXT_FILES, LangFiles
from lmu_asr.lang.openfst import FstColumns, read_fst, write_fst
from lmu_asr.lang.prepare import prepare_lang
from lmu_asr.lang.validate import CHECKS, find_faults, main, validate_lang

TEXTS = ["the cat sat", "two cats too", "a cat"]
UNITS = {
    "char": LangConfig(unit="char"),
    "bpe": LangConfig(unit="bpe", bpe_vocab_size=24),
    "phone": LangConfig(unit="phone"),
    "silence": LangConfig(unit="phone", optional_silence=True),
}
Fault = Callable[[Path], None]


def sub(name: str, old: str, new: str, count: int = 1) -> Fault:
    def apply(directory: Path) -> None:
        path = directory / name
        text = path.read_text(encoding="utf-8")
        assert old in text, (name, old)
        path.write_text(text.replace(old, new, count), encoding="utf-8")

    return apply


def raw(name: str, change: Callable[[bytes], bytes]) -> Fault:
    def apply(directory: Path) -> None:
        path = directory / name
        path.write_bytes(change(path.read_bytes()) if path.is_file() else change(b""))

    return apply


def arcs(name: str, change: Callable[[FstColumns], None]) -> Fault:
    def apply(directory: Path) -> None:
        fst = read_fst(directory / name)
        change(fst)
        write_fst(directory / name, fst)

    return apply


def info(**values: object) -> Fault:
    def apply(directory: Path) -> None:
        path = directory / "lang.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


def sort_lines(name: str, key: Callable[[str], object]) -> Fault:
    def apply(directory: Path) -> None:
        lines = (directory / name).read_text().splitlines(keepends=True)
        (directory / name).write_text("".join(sorted(lines, key=key, reverse=True)))

    return apply


def remove(name: str) -> Fault:
    return lambda directory: (directory / name).unlink()


def put(attribute: str, index: int, value: float) -> Callable[[FstColumns], None]:
    def change(fst: FstColumns) -> None:
        column = np.array(getattr(fst, attribute))
        column[index] = value
        setattr(fst, attribute, column)

    return change


def cut_off_last_state(fst: FstColumns) -> None:
    fst.final = np.append(fst.final, 0.0)


def no_way_out(fst: FstColumns) -> None:
    fst.dst = np.where(fst.src == fst.src.max(), fst.src, fst.dst)


def no_input(fst: FstColumns) -> None:
    fst.ilabel = np.zeros_like(fst.ilabel)


def start_outside(fst: FstColumns) -> None:
    fst.start = 10**6


def never_final(fst: FstColumns) -> None:
    fst.final = np.full_like(fst.final, np.inf)


def without_label(attribute: str, label: int) -> Callable[[FstColumns], None]:
    def change(fst: FstColumns) -> None:
        keep = getattr(fst, attribute) != label
        for name in ("src", "dst", "ilabel", "olabel", "cost"):
            setattr(fst, name, getattr(fst, name)[keep])

    return change


# unit, fault, what one of the messages says
FAULTS: list[tuple[str, Fault, str]] = [
    *[("char", remove(n), f"{n}: missing") for n in (*TEXT_FILES, *FSTS, "lang.json")],
    *[("char", raw(n, lambda _: b""), f"{n}: empty") for n in TEXT_FILES],
    *[("char", raw(n, lambda b: b + b"\xff\n"), "byte 0xff is not UTF-8") for n in TEXT_FILES],
    *[
        ("char", raw(n, lambda b: b"\xef\xbb\xbf" + b), ":1: starts with a byte")
        for n in TEXT_FILES
    ],
    *[("char", raw(n, lambda b: b[:-1]), "the last line has no line feed") for n in TEXT_FILES],
    *[("char", raw(n, lambda b: b.replace(b"\n", b"\r\n")), ":1: carriage") for n in TEXT_FILES],
    *[("char", raw(n, lambda b: b + b"\n"), "blank line") for n in TEXT_FILES],
    *[("char", raw(n, lambda b: b.replace(b" ", b"  ", 1)), ":1: want fields") for n in TEXT_FILES],
    *[("char", raw(n, lambda b: b.replace(b" 2", b" 2 2")), "3 fields") for n in TABLES],
    *[
        ("char", raw(n, lambda b: b.replace(b" 2", b" two")), "id 'two' is no plain")
        for n in TABLES
    ],
    *[
        ("char", raw(n, lambda b: b.replace(b" 2", b" 3")), "id 3 where 2 should be")
        for n in TABLES
    ],
    *[
        ("char", raw(n, lambda b: b.replace(b" 2", b" 1")), "id '1' stands in line 2")
        for n in TABLES
    ],
    *[("char", raw(n, lambda b: b.replace(b"#0", b"a")), "symbol 'a' stands in") for n in TABLES],
    *[("char", raw(n, lambda b: b.replace(b"#0", b"b\x07")), "control character") for n in TABLES],
    *[("char", raw(n, lambda b: b.replace(b"#0", b"q")), "no #0, the symbol") for n in TABLES],
    ("char", sub("tokens.txt", "<blk>", "<eps>"), ":1: '<eps>' has id 0: want '<blk>'"),
    ("char", sub("words.txt", "<eps>", "<blk>"), ":1: '<blk>' has id 0: want '<eps>'"),
    ("char", sub("tokens.txt", "t 8", "<s> 8"), ":9: <s> belongs to words.txt alone"),
    ("char", raw("tokens.txt", lambda _: b"<blk> 0\n#0 1\n"), "no token beside the blank"),
    ("char", sub("tokens.txt", "#1", "#2"), ":12: #2 where #1 should be"),
    ("char", raw("tokens.txt", lambda b: b + b"z 12\n"), ":13: token 'z' after #0"),
    ("char", sub("tokens.txt", "t 8", "tt 8"), ":9: token 'tt' is no single character"),
    ("char", sub("tokens.txt", "▁", "_"), "no token '▁'"),
    ("bpe", sub("tokens.txt", " 1\n", "x 1\n"), ":2: token "),
    ("bpe", raw("tokens.txt", lambda b: b + b"more 99\n"), "bpe.model has"),
    ("bpe", remove("bpe.model"), "bpe.model: missing with unit 'bpe'"),
    ("char", raw("bpe.model", lambda _: b"x"), "bpe.model: stands with unit 'char'"),
    ("bpe", raw("bpe.model", lambda b: b"x" + b[:100]), "sentencepiece cannot load it"),
    ("silence", sub("tokens.txt", "SIL", "SIP"), "no token 'SIL'"),
    ("char", sub("words.txt", "</s>", "<e>"), "words.txt: no </s>"),
    ("char", sub("words.txt", "</s>", "<e>"), "ends with #0 <s> <e>: want"),
    ("char", sub("words.txt", "cat 2", "two 2"), ":4: 'cats' after 'two'"),
    ("char", sub("words.txt", "cat 2", "#1 2"), ":3: #1 belongs to tokens.txt alone"),
    ("char", sub("words.txt", "cat 2", "<blk> 2"), "<blk> belongs to tokens.txt alone"),
    ("char", sub("words.txt", "cat 2", "▁cat 2"), ":3: '▁' in the word '▁cat'"),
    ("char", sub("words.txt", "cat 2", "cap 2"), ":3: 'cap' has no line in lexicon.txt"),
    ("char", raw("lang.json", lambda _: b"["), "lang.json: not a JSON object"),
    ("char", info(unit="syllable"), "unit 'syllable': want one of char, bpe, phone"),
    ("char", info(fingerprint="0"), "fingerprint '0', but the files give"),
    ("char", info(vocab_size=1), "vocab_size 1, tokens.txt has 10"),
    ("char", info(num_words=1), "num_words 1, words.txt has 11"),
    ("char", info(num_entries=1), "num_entries 1, lexicon.txt has 7"),
    *[
        ("phone", sub(n, "sat S AE T", "sat"), "empty pronunciation of 'sat'")
        for n in TEXT_FILES[2:]
    ],
    ("phone", sub("lexicon_disambig.txt", "sat S AE T", "sat #1"), "empty pronunciation of 'sat'"),
    *[
        ("phone", sub(n, "sat S", "dog S"), "word 'dog' is not in words.txt")
        for n in TEXT_FILES[2:]
    ],
    *[
        ("phone", sub(n, "sat S", "sat QQ"), "token 'QQ' of 'sat' is not in")
        for n in TEXT_FILES[2:]
    ],
    *[("phone", sub(n, "sat S", "<eps> S"), "reserved symbol <eps> as") for n in TEXT_FILES[2:]],
    *[("phone", sub(n, "sat S", "sat <blk>"), "<blk> in the tokens of") for n in TEXT_FILES[2:]],
    ("phone", sub("lexicon.txt", "sat S AE T", "sat S AE T #1"), "#1 in the tokens of 'sat'"),
    *[
        ("phone", sub(n, "sat S AE T\n", "sat S AE T\nsat S AE T\n"), "'sat S AE T' stands in line")
        for n in TEXT_FILES[2:]
    ],
    *[("phone", sort_lines(n, lambda line: line[0]), "after") for n in TEXT_FILES[2:]],
    ("char", sub("lexicon.txt", "a ▁ a\n", "a ▁ a\na ▁ a t\n"), "'a' is spelled in line 1 already"),
    (
        "char",
        sub("lexicon.txt", "▁ c a t\n", "▁ c a\n"),
        "'cat' is spelled ▁ c a, encoding gives ▁ c",
    ),
    ("bpe", sub("lexicon.txt", "▁ s at", "▁ s a t"), "'sat' is spelled ▁ s a t, encoding gives"),
    ("phone", sub("lexicon_disambig.txt", "sat S AE T\n", ""), "entries, lexicon.txt has"),
    (
        "phone",
        sub("lexicon_disambig.txt", "sat S AE T", "sat S AH T"),
        "of lexicon.txt is 'sat S AE T'",
    ),
    ("phone", sub("lexicon_disambig.txt", "sat S AE T", "sat S #1 AE T"), "before the last token"),
    (
        "phone",
        sub("lexicon_disambig.txt", "sat S AE T", "sat S AE T #0"),
        "#0 belongs to the grammar",
    ),
    (
        "phone",
        sub("lexicon_disambig.txt", "T UW #3", "T UW #1"),
        "tokens of 'two' are those of line",
    ),
    (
        "phone",
        sub("lexicon_disambig.txt", "cat K AE T #1", "cat K AE T"),
        "'cat' start those of 'cats'",
    ),
    (
        "phone",
        raw("tokens.txt", lambda b: b + b"#4 44\n"),
        "needs symbols up to #3, tokens.txt ends",
    ),
    ("phone", sub("lexicon_disambig.txt", "T UW #1", "T UW #3"), "should be 'to T UW #1'"),
    *[("char", raw(n, lambda b: b[:-2]), "the file is cut") for n in FSTS],
    *[("char", arcs(n, start_outside), "start state 1000000") for n in FSTS],
    *[("char", arcs(n, never_final), "states is final") for n in FSTS],
    *[("char", arcs(n, put("dst", 3, 999)), "arc 3 leads to state 999") for n in FSTS],
    *[("char", arcs(n, put("ilabel", 3, 999)), "label 999, tokens.txt ends at 11") for n in FSTS],
    *[("char", arcs(n, put("olabel", 3, -7)), "label -7, words.txt ends at 10") for n in FSTS],
    *[("char", arcs(n, put("cost", 3, np.nan)), "arc 3 costs nan") for n in FSTS],
    *[("char", arcs(n, put("final", 1, -1.0)), "final cost is below 0") for n in FSTS],
    *[("char", arcs(n, cut_off_last_state), "is not reached from the start") for n in FSTS],
    *[("char", arcs(n, no_way_out), "no final state is reached from state") for n in FSTS],
    *[("char", arcs(n, put("olabel", 0, 9)), "of state 0 are not sorted") for n in FSTS],
    *[("char", arcs(n, no_input), "a cycle of arcs that read no token") for n in FSTS],
    ("char", arcs("L.fst", put("ilabel", 3, 10)), "input label #0 belongs to L_disambig.fst"),
    ("char", arcs("L.fst", put("olabel", 3, 8)), "output label #0 belongs to L_disambig.fst"),
    *[("char", arcs(n, put("olabel", 3, 9)), "output label <s>, which only") for n in FSTS],
    ("char", arcs("L_disambig.fst", without_label("ilabel", 10)), "has no loop #0:#0"),
    ("char", arcs("L_disambig.fst", put("ilabel", 3, 10)), "#0 on one side alone"),
    ("char", arcs("L_disambig.fst", without_label("ilabel", 11)), "no arc reads #1"),
    *[("char", arcs(n, without_label("olabel", 3)), "no arc gives 'cats'") for n in FSTS],
    *[("char", arcs(n, put("ilabel", 3, 5)), "one was changed without the other") for n in FSTS],
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lang")
    return {
        k: prepare_lang(conf, TEXTS, ["to"] * (conf.unit == "phone"), root / k).dir
        for k, conf in UNITS.items()
    }


@pytest.mark.parametrize("unit", UNITS)
def test_sound_directories_pass(sound: dict[str, Path], unit: str) -> None:
    validate_lang(sound[unit], TEXTS)


def broken(sound: dict[str, Path], unit: str, fault: Fault, to: Path) -> Path:
    shutil.copytree(sound[unit], to)
    fault(to)
    return to


@pytest.mark.parametrize(("unit", "fault", "message"), FAULTS)
def test_faults_are_found(
    sound: dict[str, Path], tmp_path: Path, unit: str, fault: Fault, message: str
) -> None:
    directory = broken(sound, unit, fault, tmp_path / "lang")
    with pytest.raises(LangError) as error:
        validate_lang(directory)
    assert message in str(error.value)
    assert str(directory) in str(error.value)


def test_every_check_has_a_fault_that_trips_it(sound: dict[str, Path], tmp_path: Path) -> None:
    tripped = set()
    for number, (unit, fault, _) in enumerate(FAULTS):
        files = LangFiles(broken(sound, unit, fault, tmp_path / str(number)))
        tripped |= {check.title for check in CHECKS if check.run(files)}
    # of the training text, in the test below
    assert {check.title for check in CHECKS} - tripped == {
        "lexicon.txt: spells every word of the training text"
    }
    assert len(CHECKS) > 90


def test_all_faults_at_once_and_no_more_than_ten_of_a_kind(
    sound: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "lang"
    shutil.copytree(sound["phone"], directory)
    sub("lexicon.txt", "sat S AE T", "sat")(directory)
    sub("words.txt", "</s>", "<e>")(directory)
    faults = find_faults(directory, [" ".join(f"w{i}" for i in range(25))])
    assert any("empty pronunciation" in fault for fault in faults)
    assert any("no </s>" in fault for fault in faults)
    assert sum("of the text" in fault for fault in faults) == 10
    assert any(fault.endswith("15 more of this kind") for fault in faults)


def test_words_of_the_text(sound: dict[str, Path]) -> None:
    with pytest.raises(LangError, match=r"no entry for 'dog', in sentence 2 of the text"):
        validate_lang(sound["char"], ["the cat", "the dog"])


def test_a_change_with_its_fingerprint_is_still_found(
    sound: dict[str, Path], tmp_path: Path
) -> None:
    directory = broken(sound, "phone", sub("lexicon.txt", "S AE T", "S AH T"), tmp_path / "lang")
    info(fingerprint=content_fingerprint(directory, "phone"))(directory)
    assert any("L.fst: not what lexicon.txt gives" in fault for fault in find_faults(directory))


def test_command(
    sound: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sound["char"])]) == 0
    assert f"{len(CHECKS)} checks passed" in capsys.readouterr().out
    assert main([str(sound["char"]), str(tmp_path / "none")]) == 1
    assert "no such directory" in capsys.readouterr().out
