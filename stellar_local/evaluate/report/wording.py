"""Numbers and names of measurements as people read them, in English or Chinese.

Knows metrics' kinds and the catalogue of texts; knows nothing of models or pages.
"""

from __future__ import annotations

import math
import re

from ...console import amount, printable
from ...texts import Texts

LONGEST_ANSWER, LONGEST_QUESTION = 900, 1200  # characters shown of one text

# XML and HTML have no place for these, escaped or not; half characters have none in UTF-8.
_NOWHERE = re.compile("[\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]|[\U0001fffe-\U0001ffff]|[\U0010fffe-\U0010ffff]")
_LONGEST_NAME = 200
_LAST_NUMBER = re.compile(r"\d+(?!.*\d)")


def clean(text: str) -> str:
    """Text from files without what would drive a terminal, turn the order of text round, or be no text at all."""
    return _NOWHERE.sub("\ufffd", printable(text))


def name(text: str) -> str:
    """A name from a file: one clean line, cut where it is no longer a name."""
    line = " ".join(clean(text).split())
    return line if len(line) <= _LONGEST_NAME else line[:_LONGEST_NAME] + "…"


def shortened(text: str, longest: int, texts: Texts) -> tuple[str, str]:
    """The beginning of a text, clean, and a note on how much is missing, or ""."""
    text = clean(text).strip("\n")
    if len(text) <= longest:
        return text, ""
    return text[:longest].rstrip() + " …", texts("report.cut", shown=longest, all=f"{len(text):,}")


def number(value: float, kind: str) -> str:
    """A value without its unit, with as many digits as its kind deserves."""
    if kind == "share":
        return _signed(f"{100 * value:.1f}")
    if kind == "count" and value == round(value):
        return _signed(f"{value:,.0f}")
    if kind == "nats":
        return _signed(f"{value:.4f}" if abs(value) < 1 else f"{value:.3f}")
    if kind == "bits":
        return _signed(f"{value:.3f}")
    size = abs(value)
    return _signed(f"{value:,.0f}" if size >= 1000 else f"{value:,.1f}" if size >= 100 else f"{value:.2f}")


def _signed(text: str) -> str:
    """With a minus sign, and none before what rounding has made nothing."""
    return text.replace("-", "−" if re.search("[1-9]", text) else "", 1)


def unit(kind: str) -> str:
    """What follows a number of this kind."""
    return "%" if kind == "share" else ""


def value_text(value: float | None, kind: str) -> str:
    """A value with its unit; a dash where there is none."""
    return "–" if value is None else number(value, kind) + unit(kind)


def interval_text(low: float | None, high: float | None, kind: str) -> str:
    """An interval, without its unit; "" where there is none."""
    if low is None or high is None:
        return ""
    ends = number(low, kind), number(high, kind)
    return f"[{ends[0]}, {ends[1]}]" if low < 0 else f"{ends[0]}–{ends[1]}"


def known(texts: Texts, section: str, text: str, fallback: str = "") -> str:
    """The interface's own words for a name that a task has given, or else the name as it is, made readable.

    The last number of a name may vary: the catalogue has "n" in its place. `section` says what it is the name of:
    "task", "about" (a sentence on a task), "metric" or "group".
    """
    slug = re.sub("[^a-z0-9]+", "_", text.lower().replace("'", "")).strip("_")
    keys = {
        "task": f"task.{slug}",
        "about": f"about.{slug}",
        "metric": f"metric.{slug}",
        "group": f"group.{slug}",
    }
    key = keys[section]
    if texts.has(key):
        return texts(key)
    if (last := _LAST_NUMBER.search(key)) and texts.has(any_number := _LAST_NUMBER.sub("n", key)):
        return texts(any_number, n=last[0])
    plain = name(text.replace("_", " "))
    return fallback or (plain[:1].upper() + plain[1:] if plain.islower() else plain)


def language_name(texts: Texts, language: str) -> str:
    """A language's name where we know it, else what stood there."""
    return {"zh": texts("report.chinese"), "en": texts("report.english")}.get(language, name(language))


def size_text(size: float | None) -> str:
    """Bytes of a file, with two digits behind the point of GiB: levels of one model lie near one another."""
    if size is None:
        return "–"
    return f"{size / (1 << 30):.2f} GiB" if size >= (1 << 30) else amount(size)


def count_text(count: float | None, texts: Texts) -> str:
    """A model's parameters in millions (M) and thousands of millions (B), or, in Chinese, in 万 and 亿."""
    if count is None:
        return "–"
    steps = ((1e8, " 亿"), (1e4, " 万")) if texts.language == "zh" else ((1e9, " B"), (1e6, " M"))
    step, mark = next((one for one in steps if count >= one[0]), (1.0, ""))
    return f"{count / step:,.{0 if step == 1 else 2 if count / step < 100 else 0}f}{mark}"


def p_text(p: float) -> str:
    """A p-value: what is too small to matter is not written out."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that hold [low, high] between the first and the last, about `wanted` steps apart."""
    if not high > low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * one, 12) for one in range(first, last + 1)]
