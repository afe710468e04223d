"""Text normalisation that several corpora share."""

from __future__ import annotations

import re


def normalize_english(text: str) -> str:
    """Lower case, typographic apostrophes made plain, other punctuation dropped, single spaces."""
    text = re.sub(r"[’‘`´]", "'", text.lower())
    text = re.sub(r"[^\w' ]|_", " ", text)
    return " ".join(
        word for word in (w.strip("'") if w == "'" else w for w in text.split()) if word
    )
