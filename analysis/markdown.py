"""Sections as Markdown: tables, figures, and numbers and names as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.tables import ALL, size_name

NONE = "–"
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|$~#&])")


@dataclass(frozen=True)
class Table:
    """A Markdown table; `numbers` are the columns set flush right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A figure with the words and the data that stand beside it; drawn when it is written."""

    name: str  # of its files, without ending
    alt: str
    caption: str
    data: pd.DataFrame
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Section:
    """One question of a report: paragraphs of Markdown, tables and figures, in order. No title: it opens the page."""

    title: str
    body: tuple[str | Table | Picture, ...]

    @property
    def pictures(self) -> Iterator[Picture]:
        return (part for part in self.body if isinstance(part, Picture))


def page(title: str, sections: Sequence[Section], contents: bool = False) -> str:
    """A whole page; `contents`: with a list of its sections at the top."""
    titles = [section.title for section in sections if section.title]
    anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]  # as GitHub makes them
    linked = "\n".join(f"- [{name}](#{anchor})" for name, anchor in zip(titles, anchors, strict=True))
    parts = [f"# {title}", *([linked] if contents else [])]
    for section in sections:
        parts += [f"## {section.title}"] if section.title else []
        parts += [block(part) for part in section.body]
    return "\n\n".join(parts) + "\n"


def by_size(rows: pd.DataFrame, write: Callable[[pd.DataFrame], Table]) -> Iterator[str | Table]:
    """A table a size, under its name."""
    for size, mine in rows.groupby("per_class", sort=False):
        yield f"**{size_name(int(str(size)))}**"
        yield write(mine)


def block(part: str | Table | Picture) -> str:
    """One part of a section as Markdown."""
    if isinstance(part, Table):
        rules = ["---:" if i in part.numbers else "---" for i in range(len(part.header))]
        # No line breaks a number from its interval.
        rows = [[c.replace(" ", "\u00a0") if i in part.numbers else c for i, c in enumerate(row)] for row in part.rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in (part.header, rules, *rows))
    if isinstance(part, Picture):
        files = f"([SVG](figures/{part.name}.svg), [data](figures/{part.name}.csv))"
        return f"![{part.alt}](figures/{part.name}.png)\n\n{part.caption} {files}"
    return part


def plain(table: Table) -> str:
    """A table in columns for a terminal."""
    rows = [[re.sub(r"[`*\\]", "", cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = [str.rjust if i in table.numbers else str.ljust for i in range(len(widths))]
    lines = (zip(places, row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(place(cell, width) for place, cell, width in line).rstrip() for line in lines)


def shown(name: object) -> str:
    """Any name as Markdown text on one line: markup is escaped, and so is what no font draws."""
    text = " ".join(str(name).split())
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return _MARKUP.sub(r"\\\1", visible)


def number(value: float, digits: int = 1) -> str:
    """A number, a dash where there is none."""
    return f"{value:,.{digits}f}" if np.isfinite(value) else NONE


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, zero without one; minus as it is printed; a dash where there is none."""
    text = number(abs(value), digits)
    if text == NONE or float(text.replace(",", "")) == 0:
        return text
    return ("+" if value > 0 else "−") + text


def bracket(low: float, high: float, write: Callable[[float], str] = signed) -> str:
    """An interval; nothing where there is none."""
    return f"[{write(low)}, {write(high)}]" if np.isfinite(low) and np.isfinite(high) else ""


def with_interval(value: float, low: float, high: float, write: Callable[[float], str] = signed) -> str:
    """`+2.4 [+1.3, +3.5]`."""
    return f"{write(value)} {bracket(low, high, write)}".rstrip()


def plus_minus(value: float, low: float, high: float, write: Callable[[float], str] = signed) -> str:
    """`+2.4 ±1.1`, with half the interval where there is one, also of one that an accuracy's limit cut at one end."""
    return write(value) + (f" ±{number(max(value - low, high - value))}" if np.isfinite(low) else "")


def code(names: Sequence[str], last: str = "and") -> str:
    """`a`, `b` and `c`."""
    return listed([f"`{name}`" for name in names], last)


def listed(words: Sequence[str], last: str = "and") -> str:
    """a, b and c; nothing of nothing."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def counted(count: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size_text(per_class: int) -> str:
    """Images a class in a table's cell: `100`, or `all`."""
    return "all" if per_class == ALL else number(per_class, 0)


def short(value: float) -> str:
    """A number as a whole one; with two digits below 10."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if value < 99.5:
        return f"{short(value)} s"
    if value < 5400:
        return f"{value / 60:.1f} min" if value < 600 else f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def share(part: float, whole: float) -> str:
    """A share in percent, with the digits that small ones need."""
    return f"{short(100 * part / whole)}%"


def p_value(p: float) -> str:
    """A p-value: three digits, `<0.001` below; a dash where there was no test."""
    if not np.isfinite(p):
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 1e-4, 3e-5, 2.5e-3."""
    mantissa, exponent = f"{rate:.6e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def sentence(text: str) -> str:
    """Text with a capital first letter; one that begins with a name of the study keeps it as it is written."""
    return text if "_" in text.split(maxsplit=1)[0] else text[:1].upper() + text[1:]
