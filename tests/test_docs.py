"""The documentation names pages, headings, files and functions that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("egs/*/*.md")]
FILE = re.compile(r"`(?!exp/)((?:\w+/)+\w+\.(?:py|sh|md))`")
MODULE = re.compile(r"(?<![\w.-])((?:lmu_asr|tests)(?:\.\w+)+)")


def anchors(page: Path) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_links_lead_to_a_page_and_a_heading() -> None:
    links = [(p, link) for p in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", p.read_text())]
    assert len(links) > 50
    for page, link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not link.startswith("http"):
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(target), f"{page}: {link}"


def test_files_and_modules_exist() -> None:
    for page in PAGES:
        text = page.read_text()
        for name in FILE.findall(text):
            places = [ROOT / name, ROOT / "lmu_asr" / name]
            assert any(p.exists() for p in places), f"{page}: {name}"
        for name in MODULE.findall(text):
            path = ROOT / name.replace(".", "/")  # the last part may be a name in the module
            assert (
                path.is_dir()
                or path.with_suffix(".py").exists()
                or (path.parent.with_suffix(".py").exists())
            ), f"{page}: {name}"


def test_walks_name_fewer_than_ten_files_and_functions_that_are_there() -> None:
    row = re.compile(r"^\| \d \| `([\w/]+\.py)` \| (.*?) \|", re.M)
    for walk in (ROOT / "docs/design.md").read_text().split("\n## How the ")[1:]:
        rows = row.findall(walk.split("\n## ")[0])
        assert 5 < len(rows) < 10
        for name, functions in rows:
            source = (ROOT / "lmu_asr" / name).read_text()
            for part in re.findall(r"\w+", functions.replace("`", "")):
                assert re.search(rf"(?:def|class) {part}\b", source), f"{name}: {part}"
