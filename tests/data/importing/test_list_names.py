"""Which word means which split."""

from __future__ import annotations

import pytest

from lmu_asr.data.importing.list_names import find_splits
from lmu_asr.errors import DataError

DEFAULT = ["train", "dev", "test"]


@pytest.mark.parametrize(
    ("words", "wanted", "found"),
    [
        ("train dev test", DEFAULT, "train dev test"),
        ("Training VALID testing", DEFAULT, "Training VALID testing"),
        ("train validation", DEFAULT, "train validation -"),
        ("train eval test", DEFAULT, "train eval test"),  # eval is dev where nothing else is
        ("train dev eval", DEFAULT, "train dev eval"),  # and test beside dev
        ("train dev test eval", DEFAULT, "train dev test"),  # and neither beside both
        ("train dev test eval", [*DEFAULT, "eval"], "train dev test eval"),
        ("train valid dev", ["train", "valid", "dev"], "train valid dev"),
        (
            "train dev",
            ["train-clean", "dev", "test"],
            "- dev -",
        ),  # no synonym of a name of one's own
        ("other clips", DEFAULT, "- - -"),
    ],
)
def test_words(words, wanted, found):
    pairs = zip(wanted, found.split(), strict=False)
    assert find_splits(words.split(), wanted, "x") == {n: w for n, w in pairs if w != "-"}


def test_two_words_for_one_split():
    with pytest.raises(DataError, match="list: 'val' and 'valid' both mean the split 'dev'"):
        find_splits(["train", "valid", "val"], DEFAULT, "list")
