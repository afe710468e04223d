"""What happens to transcripts: a rule of named steps, and a report of what it changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

SHOWN = 3  # examples of each step
LISTED = 20  # things that a step dropped, the most frequent first
LINE = 100  # characters of an example in the log
REMEMBERED = 10_000  # different things counted: a hostile text must not fill the memory


def _nothing(text: str) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Step:
    """One step of a rule.

    Attributes:
        name: what the step does, for the report.
        apply: text in, text out.
        dropped: what the step will take out of a text, for the report.
    """

    name: str
    apply: Callable[[str], str]
    dropped: Callable[[str], Iterable[str]] = _nothing


@dataclass(frozen=True)
class TextRule:
    """How transcripts become the text that is trained on and scored; call it with a text."""

    name: str
    steps: tuple[Step, ...]

    def __call__(self, text: str) -> str:
        """Return ``text`` after all steps."""
        for step in self.steps:
            text = step.apply(text)
        return text

    @classmethod
    def of(cls, normalize: Callable[[str], str]) -> TextRule:
        """Return ``normalize`` itself where it is a rule, else a rule with it as the only step."""
        if isinstance(normalize, cls):
            return normalize
        return cls("of the corpus", (Step("normalised", normalize),))


def _short(text: str) -> str:
    return repr(text if len(text) <= LINE else f"{text[:LINE]}...")


@dataclass
class _Seen:
    utterances: int = 0
    first: list[dict[str, str]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


class TextChanges:
    """Counts what a rule changes, step by step, and keeps the first examples."""

    def __init__(self, rule: TextRule) -> None:
        self.rule, self.total, self.changed = rule, 0, 0
        self._seen: dict[str, _Seen] = {}

    def apply(self, utterance: str, text: str) -> str:
        """Return ``text`` after the rule, and count what it changed."""
        self.total += 1
        new, names = text, []
        for step in self.rule.steps:
            old, new = new, step.apply(new)
            if new != old:
                names.append(step.name)
                self._count(step, old)
        self.changed += bool(names)
        for name in names:
            examples = self._seen[name].first
            if len(examples) < SHOWN:
                examples.append({"id": utterance, "before": text, "after": new})
        return new

    def _count(self, step: Step, text: str) -> None:
        seen = self._seen.setdefault(step.name, _Seen())
        seen.utterances += 1
        for item in step.dropped(text):
            if item in seen.dropped or len(seen.dropped) < REMEMBERED:
                seen.dropped[item] += 1

    def summary(self) -> str:
        """Return the counts and one example on one line; empty where nothing changed."""
        if not self.changed:
            return ""
        ordered = [(s.name, self._seen[s.name]) for s in self.rule.steps if s.name in self._seen]
        counts = ", ".join(f"{name} in {seen.utterances}" for name, seen in ordered)
        example = min(ordered, key=lambda item: item[1].utterances)[1].first[0]
        return (
            f"text ({self.rule.name}): {self.changed} of {self.total} transcripts changed: {counts}; "
            f"for example {example['id']}: "
            f"{_short(example['before'])} -> {_short(example['after'])}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole report for a JSON file."""
        steps = {
            step.name: {
                "utterances": seen.utterances,
                "first": seen.first,
                **({"dropped": dict(seen.dropped.most_common(LISTED))} if seen.dropped else {}),
            }
            for step in self.rule.steps
            if (seen := self._seen.get(step.name))
        }
        return {
            "rule": self.rule.name,
            "transcripts": self.total,
            "changed": self.changed,
            "steps": steps,
        }
