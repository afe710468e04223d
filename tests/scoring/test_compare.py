"""Two systems side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmu_asr.errors import DataError
from lmu_asr.scoring.compare import compare, compare_files, comparison_text, main, p_value
from lmu_asr.scoring.record import Results, save_results
from lmu_asr.scoring.transcripts import write_recogs
from tests.scoring.samples import make_result, make_scores


def make_dir(path: Path, variant: str, errors: list[int]) -> Results:
    scores = make_scores(errors)
    result = make_result(variant, scores=scores)
    save_results(path / "results.json", [result])
    write_recogs(path / "recogs-test-HLG.txt", scores.words)
    return result


def test_differences_with_texts_largest_first(tmp_path: Path) -> None:
    first = make_dir(tmp_path / "a", "a", [0, 1, 5])
    second = make_dir(tmp_path / "b", "b", [0, 2, 1])
    found = compare(first, second, tmp_path / "a", tmp_path / "b")
    assert [(d.id, d.errors) for d in found.differences] == [("u002", (5, 1)), ("u001", (1, 2))]
    assert found.differences[1].hyps == ("b" + 9 * " a", "b b" + 8 * " a")
    assert found.differences[1].ref == "a" + 9 * " a"
    assert found.common == 3


def test_equal_errors_but_other_words_differ(tmp_path: Path) -> None:
    first = make_dir(tmp_path / "a", "a", [1])
    second = make_dir(tmp_path / "b", "b", [1])
    recogs = tmp_path / "b" / "recogs-test-HLG.txt"
    recogs.write_text(recogs.read_text().replace("hyp=['b'", "hyp=['c'"))
    found = compare(first, second, tmp_path / "a", tmp_path / "b")
    assert [d.id for d in found.differences] == ["u000"]


def test_results_without_transcripts_compare_by_counts(tmp_path: Path) -> None:
    first = make_dir(tmp_path / "a", "a", [1, 0])
    second = make_dir(tmp_path / "b", "b", [1, 2])
    (tmp_path / "b" / "recogs-test-HLG.txt").unlink()
    found = compare(first, second, tmp_path / "a", tmp_path / "b")
    assert [(d.id, d.hyps) for d in found.differences] == [("u001", ("a" + 9 * " a", ""))]


def test_text_shows_rates_p_value_and_utterances(tmp_path: Path) -> None:
    make_dir(tmp_path / "a", "a", [0] * 50)
    make_dir(tmp_path / "b", "b", [1] * 50)
    (found,) = compare_files(tmp_path / "a" / "results.json", tmp_path / "b" / "results.json")
    text = comparison_text(found, limit=2)
    assert "first better on 50, second better on 0; p = 0.0010" in text
    assert "a/HLG" in text and "b/HLG" in text
    assert "0.00 [0.00, 0.00]" in text and "10.00 [10.00, 10.00]" in text
    assert text.count("  ref a a") == 2
    assert text.endswith("... and 48 more\n")


def test_methods_of_one_file_against_each_other(tmp_path: Path) -> None:
    results = [
        make_result(method="greedy", scores=make_scores([2])),
        make_result(scores=make_scores([0])),
    ]
    path = tmp_path / "results.json"
    save_results(path, results)
    (found,) = compare_files(path, path, methods=["greedy", "HLG"])
    assert (found.first.method, found.second.method) == ("greedy", "HLG")
    assert len(compare_files(path, path)) == 2


def test_nothing_in_common_names_what_there_is(tmp_path: Path) -> None:
    make_dir(tmp_path / "a", "a", [0])
    path = tmp_path / "a" / "results.json"
    with pytest.raises(DataError, match=r"have test/HLG; did you mean test\?"):
        compare_files(path, path, split="tst")


def test_other_splits_and_utterances_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot compare words of 'test' with words of 'dev'"):
        compare(make_result(), make_result(split="dev"), tmp_path, tmp_path)
    longer = make_result(scores=make_scores([0, 0, 0], length=11))
    with pytest.raises(DataError, match="no utterance in common"):
        compare(make_result(), longer, tmp_path, tmp_path)


def test_p_value_needs_the_same_utterances() -> None:
    assert p_value(make_result(), make_result()) == 1.0
    assert p_value(make_result(), make_result(scores=make_scores([1, 0]))) is None
    assert p_value(make_result(), make_result(split="dev")) is None
    assert p_value(make_result(), make_result(unit="phone")) is None


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, errors in (("a", [0, 1]), ("b", [2, 1])):
        make_dir(tmp_path / name / "decode", name, errors)
    assert main([str(tmp_path / "a"), str(tmp_path / "b" / "decode" / "results.json")]) == 0
    assert "u000: 0 and 2 errors" in capsys.readouterr().out
    assert main([str(tmp_path / "a"), str(tmp_path / "b" / "decode")]) == 0
    assert "u000: 0 and 2 errors" in capsys.readouterr().out
    assert main([str(tmp_path / "a"), str(tmp_path / "c.json")]) == 1
    assert "c.json: no such file" in capsys.readouterr().err
