"""Sentences of the mini corpus: commands, dates, times and digits over a small vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = [
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty"]
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
]
MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
ROOMS = ["kitchen", "bedroom", "garden", "office"]
NAMES = ["anna", "peter", "maria", "sarah"]
TEMPLATES = (
    "turn {onoff} the {room} {device}",
    "turn the {room} {device} {onoff} {when}",
    "{openclose} the {room} {part} {please}",
    "please {openclose} the {part} in the {room}",
    "set the {room} heater to {number} degrees",
    "set {a} timer for {number} {unit}",
    "set an alarm for {time} on {day}",
    "wake me at {time} on {day} {daypart}",
    "remind me to call {name} on {day}",
    "call {name} at {time} {when}",
    "send a message to {name} and {name}",
    "play some {colour} music in the {room}",
    "make the {room} lights {colour} {please}",
    "what is the weather on {date}",
    "the meeting is on {date} at {time}",
    "my birthday is on {date}",
    "the number is {digits}",
    "call {digits} {please}",
    "cancel the {time} meeting with {name}",
    "read my messages from {day} {daypart}",
    "how long until {date}",
    "{number} and {number} and {number}",
    "from {date} to {date}",
)
WHEN = ["now", "today", "tomorrow", "tonight", "in {number} {unit}"]


def sentence(rng: Rng) -> str:
    """Draw one sentence of lower-case words, 4 to 12 of them."""
    while True:
        words = _expand(_pick(TEMPLATES, rng), rng).split()
        if 4 <= len(words) <= 12:
            return " ".join(words)


def vocabulary(samples: int = 20000) -> list[str]:
    """Return the sorted words of the grammar, collected from ``samples`` sentences."""
    rng = np.random.default_rng(0)
    return sorted({word for _ in range(samples) for word in sentence(rng).split()})


def _expand(template: str, rng: Rng) -> str:
    while match := re.search(r"\{(\w+)\}", template):
        value = SLOTS[match.group(1)](rng)
        template = template[: match.start()] + value + template[match.end() :]
    return template


def _pick(choices: list[str] | tuple[str, ...], rng: Rng) -> str:
    return choices[int(rng.integers(len(choices)))]


def _one_of(words: list[str]) -> Callable[[Rng], str]:
    return lambda rng: _pick(words, rng)


def _number(rng: Rng) -> str:
    value = int(rng.integers(2, 60))
    if value < 10:
        return DIGITS[value]
    if value < 20:
        return TEENS[value - 10]
    tens, ones = TENS[value // 10 - 2], value % 10
    return f"{tens} {DIGITS[ones]}" if ones else tens


def _date(rng: Rng) -> str:
    day = int(rng.integers(31))
    ordinal = [*ORDINALS, "twentieth", "thirtieth", "twelfth"][day % 13]
    if day > 12:
        ordinal = f"twenty {ORDINALS[day % 9]}"
    month = _pick(MONTHS, rng)
    return f"the {ordinal} of {month}" if rng.random() < 0.5 else f"{month} the {ordinal}"


def _time(rng: Rng) -> str:
    hour = (DIGITS + TEENS)[int(rng.integers(1, 13))]
    minutes = ["", "fifteen", "thirty", "forty five", "ten", "twenty"][int(rng.integers(6))]
    if not minutes and rng.random() < 0.5:
        return f"half past {hour}"
    return f"{hour} {minutes}".strip()


def _digits(rng: Rng) -> str:
    return " ".join(_pick(DIGITS, rng) for _ in range(int(rng.integers(4, 8))))


SLOTS: dict[str, Callable[[Rng], str]] = {
    "onoff": _one_of(["on", "off"]),
    "openclose": _one_of(["open", "close"]),
    "please": _one_of(["please", "now", ""]),
    "a": _one_of(["a", "the"]),
    "room": _one_of(ROOMS),
    "device": _one_of(["lights", "lamp", "radio", "heater"]),
    "part": _one_of(["door", "window"]),
    "colour": _one_of(["red", "green", "blue"]),
    "unit": _one_of(["seconds", "minutes", "hours"]),
    "day": _one_of(DAYS),
    "daypart": _one_of(["morning", "evening", "night"]),
    "name": _one_of(NAMES),
    "when": _one_of(WHEN),
    "number": _number,
    "date": _date,
    "time": _time,
    "digits": _digits,
}
