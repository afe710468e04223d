"""results.json, the table across variants and RESULTS.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmu_asr.errors import DataError
from lmu_asr.scoring.plots import plot_results
from lmu_asr.scoring.record import Cost, Provenance, Rate, load_results, save_results
from lmu_asr.scoring.results import collect, write_results
from lmu_asr.scoring.score import score_pairs
from lmu_asr.scoring.table import format_duration, format_rate, format_scales, table_markdown
from tests.scoring.samples import make_result, make_scores


def test_round_trip(tmp_path: Path) -> None:
    results = [
        make_result(),
        make_result("causal", method="greedy", scales={}, fallbacks=2, oracle=1.5),
    ]
    save_results(tmp_path / "results.json", results)
    assert load_results(tmp_path / "results.json") == results


def test_file_is_plain_json_without_infinity(tmp_path: Path) -> None:
    scores = score_pairs(["u"], [""], ["a"], bootstrap=100)
    save_results(tmp_path / "results.json", [make_result(scores=scores)])
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["results"][0]["wer"]["rate"] is None
    assert format_rate(load_results(tmp_path / "results.json")[0].wer) == "n/a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1, "results": [', "not valid JSON"),
        ('{"format": 99, "results": []}', "format 99, want 1"),
        ("[]", "format list"),
        ('{"format": 1, "results": [{"corpus": "x"}]}', "not a result of this version"),
    ],
)
def test_broken_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_results(tmp_path / "results.json")


def test_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    save_results(path, [make_result()])
    path.write_text(path.read_text().replace('"engine"', '"motor"'))
    with pytest.raises(DataError, match="motor"):
        load_results(path)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"decode first \(stage 5\)"):
        load_results(tmp_path / "results.json")


def test_real_time_factor() -> None:
    cost = Cost(audio_seconds=200.0, encoder_seconds=3.0, search_seconds=1.0)
    assert (cost.encoder_rtf, cost.search_rtf, cost.rtf) == (0.015, 0.005, 0.02)
    assert Cost().rtf == 0.0


def cells(table: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_table_row_by_hand() -> None:
    rows = cells(table_markdown([make_result()]))
    assert len(rows) == 3
    low, high = make_scores([1, 0, 2]).words.interval
    assert rows[2] == [
        "default",
        "HLG",
        "test",
        f"10.00 [{low:.2f}, {high:.2f}]",
        "5.26",
        "baseline",
        "1.23",
        "0.0075 (0.0050 + 0.0025)",
        "115",
        "6.2 min",
        "lm_scale 0.5",
    ]


def test_significance_against_the_default_variant() -> None:
    base = make_result("default", scores=make_scores([3] * 40))
    better = make_result("a-better", scores=make_scores([1] * 40))
    same = make_result("same", scores=make_scores([3] * 40))
    other = make_result("other", scores=make_scores([3] * 39))
    rows = {r[0]: r[5] for r in cells(table_markdown([better, same, other, base]))[2:]}
    assert rows == {
        "default": "baseline",
        "a-better": "0.001 (better)",
        "same": "1.000 (equal)",
        "other": "not comparable",
    }


def test_baseline_can_be_named_and_comes_first() -> None:
    results = [make_result("default"), make_result("z"), make_result("default", method="greedy")]
    rows = cells(table_markdown(results, baseline="z"))[2:]
    assert [r[0] for r in rows] == ["z", "default", "default"]
    assert [r[5] for r in rows] == ["baseline", "1.000 (equal)", "-"]


def test_dev_is_shown_only_on_request() -> None:
    results = [make_result(), make_result(split="dev", role="dev")]
    assert [r[2] for r in cells(table_markdown(results))[2:]] == ["test"]
    assert [r[2] for r in cells(table_markdown(results, splits=["dev"]))[2:]] == ["dev"]


@pytest.mark.parametrize(
    ("scales", "text"),
    [
        ({"blank_penalty": 0.0}, "-"),
        ({"lm_scale": 1.0, "acoustic_scale": 1.0}, "lm_scale 1"),
        (
            {"lm_scale": 0.3, "acoustic_scale": 0.5, "blank_penalty": 2.0},
            "acoustic_scale 0.5, blank_penalty 2, lm_scale 0.3",
        ),
    ],
)
def test_neutral_scales_are_left_out(scales: dict[str, float], text: str) -> None:
    assert format_scales(scales) == text


def test_phones_and_offline_are_marked() -> None:
    row = cells(table_markdown([make_result(unit="phone", cost=Cost())]))[2]
    assert row[3].startswith("PER 10.00") and row[4] == "-"
    assert row[8] == "offline"


def test_bars_in_names_do_not_break_the_table() -> None:
    assert "a\\|b" in table_markdown([make_result("a|b")])


def test_baseline_is_default_or_what_begins_so() -> None:
    def baseline(*variants: str) -> str:
        rows = table_markdown([make_result(name) for name in variants]).splitlines()[2:]
        (found,) = [row.split(" | ")[0][2:] for row in rows if " baseline " in row]
        return found

    assert baseline("cr_ctc", "default-seed1", "default") == "default"
    assert baseline("cr_ctc", "default-seed2", "default-seed1") == "default-seed2"
    assert baseline("cr_ctc", "causal") == "cr_ctc"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "-"), (12.4, "12 s"), (372, "6.2 min"), (3720, "1 h 02 min"), (7195, "2 h 00 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_results_file_over_variants(tmp_path: Path) -> None:
    for name in ("default", "causal"):
        save_results(tmp_path / name / "decode" / "results.json", [make_result(name)])
    save_results(tmp_path / "default/decode-b/results.json", [make_result("default+b")])
    assert [r.variant for r in collect(tmp_path)] == ["causal", "default", "default+b"]
    text = write_results(tmp_path, note="Synthetic speech.").read_text()
    assert text.startswith("# Results: mini\n\nGenerated by stage 6")
    assert "Synthetic speech." in text
    assert "    ./run.sh\n" in text
    assert table_markdown(collect(tmp_path)) in text


def test_results_file_without_a_recorded_command(tmp_path: Path) -> None:
    result = make_result("causal", provenance=Provenance())
    save_results(tmp_path / "causal" / "decode" / "results.json", [result])
    text = write_results(tmp_path).read_text()
    assert "    ./run.sh --recipe mini --variant causal\n" in text
    assert "## Development" not in text


def test_development_table_stands_apart(tmp_path: Path) -> None:
    results = [make_result(), make_result(split="dev", role="dev")]
    save_results(tmp_path / "default" / "decode" / "results.json", results)
    text = write_results(tmp_path).read_text()
    assert text.index("| test |") < text.index("## Development") < text.index("| dev |")


def test_oracle_column_only_where_there_is_one() -> None:
    assert "oracle" not in table_markdown([make_result()])
    rows = cells(table_markdown([make_result(oracle=1.25), make_result("z")]))
    assert [row[-1] for row in rows] == ["oracle %", "---", "1.25", "-"]


def test_picture_holds_intervals(tmp_path: Path) -> None:
    results = [
        make_result(variant, method=method, scores=make_scores(errors))
        for variant, errors in (("default", [1, 2]), ("causal", [3, 2]))
        for method in ("greedy", "HLG")
    ]
    assert plot_results(tmp_path / "results.png", results)
    data = (tmp_path / "results.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 5000
    assert plot_results(tmp_path / "again.png", results)
    assert (tmp_path / "again.png").read_bytes() == data


def test_no_picture_without_rates(tmp_path: Path) -> None:
    scores = score_pairs(["u"], [""], ["a"], bootstrap=100)
    assert not plot_results(tmp_path / "r.png", [make_result(scores=scores)])
    assert not (tmp_path / "r.png").exists()


def test_no_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="decode first"):
        write_results(tmp_path)


def test_rate_of_report() -> None:
    rate = Rate.of(make_scores([1, 2]).words)
    assert (rate.rate, rate.substitutions, rate.length, rate.errors) == (15.0, 3, 20, 3)
