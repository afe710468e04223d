"""What becomes of transcripts: letters of every script stay whole, what goes is counted."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmu_asr.config import CorpusConfig
from lmu_asr.corpora import get_corpus, text_rule
from lmu_asr.corpora.text import PLAIN, RULES, normalize_english
from lmu_asr.data.importing.text_rule import TextChanges, TextRule


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # combining marks belong to their letters, in every script
        ("हिन्दी में, बोलो।", "हिन्दी में बोलो"),
        ("ภาษาไทย นี้", "ภาษาไทย นี้"),
        ("שָׁלוֹם!", "שָׁלוֹם"),
        ("தமிழ் மொழி", "தமிழ் மொழி"),
        (unicodedata.normalize("NFD", "Café, à Noël"), "café à noël"),
        ("İSTANBUL", "istanbul"),
        (unicodedata.normalize("NFD", "İZMİR"), "izmir"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        # apostrophes stay within words only; quotation marks go
        ("\u2018Yes,\u2019 he said: \u201cdon\u2019t\u201d", "yes he said don't"),
        ("'quoted words' l'eau rock 'n' roll the dogs'", "quoted words l'eau rock n roll the dogs"),
        ("''both'' «ça» „so“", "both ça so"),
        ("м\u02bcять м\u2019ять", "м'ять м'ять"),
        ("说\u2018你好\u2019了 '안녕'이라고", "说你好了 안녕이라고"),
        ("col·lega צה״ל", "col·lega צה״ל"),
        # full-width and half-width forms
        ("ＡＢＣ　１２３！", "abc 123"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("½ ﬁ ²", "½ ﬁ ²"),  # other compatibility characters are not touched
        # tags in brackets; round brackets hold speech, but for names of sounds
        ("[noise] one <unk> two {lg}", "one two"),
        ("[background noise] (Laughter) (he said) <s>", "he said"),
        ("a < b and c > d", "a b and c d"),
        ("[not closed", "not closed"),
        ("a<b and c>d", "a b and c d"),
        ("yes<unk>no <background noise>yes no<loud noise>", "yes no yes no"),
        ("[a [b] c] x {d [e <f> g] h} [i]]", "x"),
        ("【音楽】はい〔笑〕 〖x〗 「引用」《书名》", "はい 引用 书名"),
        ("［笑］ （笑）", "笑"),  # full-width brackets are brackets
        ("++noise++ yes ++um++, c++11 a++ ++b", "yes c 11 a b"),
        ("%hesitation yes %Laughter. 5 %of 100% noise %noisy", "yes 5 of 100 noise noisy"),
        # HTML entities
        ("&lt;unk&gt; AT&amp;T d&#39;or&#xe9;e &quot;x&quot;&nbsp;y", "at t d'orée x y"),
        ("R&D; Q&A &nothing; &;", "r d q a nothing"),
        # what stands within words and is no letter of them
        ("co\u00adop \u200fא\u200e", "coop א"),
        ("a\u200bb\u2028c\u0000d", "a b cd"),
        ("ok \u2764\ufe0f 👍🏽", "ok"),
        ("\ud800lone", "lone"),
        ("well-known e_mail", "well known e mail"),
    ],
)
def test_plain(text: str, wanted: str) -> None:
    assert PLAIN(text) == wanted
    assert get_corpus("own").normalize(text) == get_corpus("commonvoice").normalize(text) == wanted


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=12), st.sampled_from(["plain", "as_is"]))
def test_once_is_enough_and_the_result_is_one_line(text: str, name: str) -> None:
    once = RULES[name](text)
    assert RULES[name](once) == once == " ".join(once.split())
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in once)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(categories=["Lu", "Ll", "Lo", "Mn", "Mc", "Nd"]), max_size=12))
def test_plain_loses_no_letter_and_no_mark(text: str) -> None:
    start = "x" + text.replace("\u0130", "i")
    kept = [c for c in start.lower() if not "\ufe00" <= c <= "\ufe0f" and c < "\U000e0100"]
    wide = unicodedata.normalize("NFKC", "".join(kept))
    assert unicodedata.normalize("NFKC", PLAIN(start)) == wide


def test_other_rules() -> None:
    text = " Hello\t<unk>,  “WORLD”\u0007\ufeff "
    assert RULES["as_is"](text) == "Hello <unk>, “WORLD”"
    assert RULES["upper"]("don’t [noise] stop.") == "DON'T STOP"
    assert RULES["upper"]("Straße ŉ") == "STRASSE ʼN"  # as Unicode has it
    assert (
        RULES["as_is"]("a<b and c>d &lt;unk&gt; ++x++ 【y】")
        == "a<b and c>d &lt;unk&gt; ++x++ 【y】"
    )


def test_english_keeps_marks_and_edges() -> None:
    assert normalize_english("'Tis cafe\u0301 हिन्दी \u2764\ufe0f") == "'tis café हिन्दी"


def test_the_option_or_the_corpus_chooses_the_rule() -> None:
    own = CorpusConfig(name="own")
    assert text_rule(own) is PLAIN
    assert text_rule(CorpusConfig(name="own", text="as_is")) is RULES["as_is"]
    assert text_rule(CorpusConfig(name="librispeech", text="upper")) is RULES["upper"]
    assert text_rule(CorpusConfig(name="librispeech"))("'TIS") == "'tis"


def test_report_of_changes() -> None:
    changes = TextChanges(PLAIN)
    for name, text in {"a": "as it was", "b": "[noise] One, two!", "c": "[noise] <unk> x"}.items():
        changes.apply(name, text)
    report = changes.to_json()
    assert (report["rule"], report["transcripts"], report["changed"]) == ("plain", 3, 2)
    steps = report["steps"]
    assert steps["tags in brackets dropped"] == {
        "utterances": 2,
        "first": [
            {"id": "b", "before": "[noise] One, two!", "after": "one two"},
            {"id": "c", "before": "[noise] <unk> x", "after": "x"},
        ],
        "dropped": {"[noise]": 2, "<unk>": 1},
    }
    assert steps["punctuation and symbols dropped"]["dropped"] == {",": 1, "!": 1}
    assert steps["lower case"]["utterances"] == 1
    assert changes.summary().startswith("text (plain): 2 of 3 transcripts changed: ")
    assert "for example b: '[noise] One, two!' -> 'one two'" in changes.summary()


def test_tags_in_tags_are_counted_from_the_inner_to_the_outer() -> None:
    changes = TextChanges(PLAIN)
    assert changes.apply("a", "[x [y] z] word") == "word"
    dropped = changes.to_json()["steps"]["tags in brackets dropped"]["dropped"]
    assert dropped == {"[y]": 1, "[x z]": 1}


def test_nothing_changed_is_not_said() -> None:
    changes = TextChanges(TextRule.of(str.strip))
    assert changes.apply("a", "x") == "x"
    assert changes.summary() == ""
    assert changes.to_json()["steps"] == {}
