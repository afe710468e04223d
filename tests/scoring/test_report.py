"""The page of a decode: escaped, self-contained, complete."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from lmu_asr.scoring.report import report_html, write_report
from lmu_asr.scoring.score import score_pairs
from tests.scoring.samples import make_result

EVIL = "<script>alert('1')</script>"


class Page(HTMLParser):
    """Collects tags, attributes and the text outside style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def parse(refs: list[str], hyps: list[str], **kwargs: object) -> Page:
    ids = [f"<b>utt{n}" for n in range(len(refs))]
    scores = score_pairs(ids, refs, hyps, bootstrap=100)
    page = Page()
    page.feed(report_html(make_result(scores=scores, **kwargs), scores))
    assert not page.open
    return page


def test_everything_is_escaped() -> None:
    page = parse([f"{EVIL} a &amp;", EVIL], [f"a {EVIL} <i>", "\"'"], variant="<img src=x>")
    assert page.tags.count("script") == 1
    assert not {"img", "b", "i"} & set(page.tags)
    for shown in (EVIL, "&amp;", "<i>", "\"'", "<b>utt0", "<img src=x>"):
        assert shown in page.text


def test_page_loads_nothing() -> None:
    page = parse(["a"], ["b"])
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "onclick"}
    policies = [value for name, value in page.attributes if name == "content"]
    assert any(value and value.startswith("default-src 'none'") for value in policies)


def test_marks_of_insertion_deletion_substitution() -> None:
    scores = score_pairs(["u"], ["a b c d"], ["x a z c"], bootstrap=100)
    html = report_html(make_result(scores=scores), scores)
    row = re.search(r"<td><ins>.*?</td>", html)
    assert row is not None
    assert row.group() == (
        '<td><ins>x</ins> a <span class="sub"><s>b</s> z</span> c <del>d</del></td>'
    )


def test_worst_utterance_comes_first_and_rates_sort_as_numbers(tmp_path: Path) -> None:
    scores = score_pairs(["good", "bad"], ["a b", "a b"], ["a b", "c d"], bootstrap=100)
    write_report(tmp_path / "r.html", make_result(scores=scores), scores)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert html.index("<td>bad</td>") < html.index("<td>good</td>")
    assert 'data-value="100.0">100.00<' in html
