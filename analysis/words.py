"""Numbers and names as the report writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.findings import Numbers, no_test
from analysis.plots import signed
from analysis.tables import ALL, size_name

NONE = "–"


@dataclass(frozen=True)
class Table:
    """A Markdown table; `numbers` are the columns set flush right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


def percent(value: float, digits: int = 1) -> str:
    """A percentage without its sign, a dash where there is none."""
    return f"{value:.{digits}f}" if np.isfinite(value) else NONE


def bracket(low: float, high: float, signs: str = "with") -> str:
    """An interval; nothing where there is none."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    write = signed if signs == "with" else percent
    return f"[{write(low)}, {write(high)}]"


def joined(names: Sequence[str], last: str = "and") -> str:
    """`a`, `b` and `c`."""
    return joined_words([f"`{name}`" for name in names], last)


def joined_words(words: Sequence[str], last: str = "and") -> str:
    """a, b and c; nothing of nothing."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def counted(count: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if value < 99.5:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def share(part: float, whole: float) -> str:
    """A share in percent, with the digits that small ones need."""
    value = 100 * part / whole
    return f"{value:.0f}%" if value >= 99.95 else f"{value:.2g}%" if value < 10 else f"{value:.0f}%"


def compact(count: int) -> str:
    """2,562 or 3.37 M."""
    return f"{count:,}" if count < 100_000 else f"{count / 1e6:.3g} M"


def size_words(numbers: Numbers, per_class: int) -> str:
    """`100 images a class (200 in all)`."""
    if per_class == ALL:
        return f"all {numbers.tables.provenance['dataset']['pool_images']:,} training images"
    return f"{size_name(per_class)} ({per_class * len(numbers.tables.predictions.classes):,} in all)"


def size_number(per_class: int) -> str:
    """`100`, or `all`."""
    return "all" if per_class == ALL else f"{per_class:,}"


def gain_words(row: Mapping[Any, Any]) -> str:
    """`+4.8 points [+2.1, +7.5]`, or why there is none."""
    if not np.isfinite(row["difference"]):
        return f"not testable ({no_test(row)})"
    return f"{signed(row['difference'])} points {bracket(row['low'], row['high'])}"


def sentence(text: str) -> str:
    """Text with a capital first letter; one that begins with a name of the study keeps it as it is written."""
    return text if "_" in text.split(maxsplit=1)[0] else text[:1].upper() + text[1:]


def cell(text: object) -> str:
    """Text that may stand in a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")
