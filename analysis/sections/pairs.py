"""Which strategies differ: each against the reference, and all pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.comparison import REFERENCE, Comparison
from analysis.markdown import NONE, Picture, Section, Table, bracket, counted, number, p_value, signed, with_interval
from analysis.paired import no_test
from analysis.power import ALPHA
from analysis.style import drawn, figure, gained, heat_map
from analysis.tables import size_name, where


def section(study: Comparison) -> Section | None:
    """A forest plot, a map of all pairs of default strategies a size, and every pair as a folded table."""
    if study.pairs.empty:
        return None
    words = (
        f"B minus A in points of {study.metric}, paired by seed, with 95% intervals of that pair alone; *new images*: "
        "the interval for other test images too. p: corrected (Holm) over the pairs of default strategies of a size, "
        "or over its pairs of BatchNorm frozen and updated. Detectable: the true difference that this many seeds find "
        "four times in five, without correction."
    )
    maps = [found for size in study.sizes if (found := _map(study, size))]
    return Section("All pairs", (*_forest(study), *maps, words, *_folded(study)))


def _forest(study: Comparison) -> Iterator[Picture]:
    found = study.gains((size, name, REFERENCE) for size in study.sizes for name in study.names)
    if found.empty:
        return
    names = [name for name in study.names if name in set(found["strategy"])]
    axis = f"points of {study.metric} over {REFERENCE}"
    yield Picture(
        "forest",
        f"Difference in {study.metric} of each strategy from {REFERENCE}",
        f"{study.metric.capitalize()} minus that of `{REFERENCE}` in points, paired by seed ({study.seeds(names)}). "
        f"Thick: 95% interval over {study.over}; thin: over new test images too. Filled: told apart (corrected).",
        found,
        lambda: gained(found, axis, names),
    )


def _map(study: Comparison, per_class: int) -> Picture | None:
    pairs = where(study.pairs, per_class=per_class, family="pairs").dropna(subset="difference")
    names = [name for name in study.names if name in set(pairs["a"]) | set(pairs["b"])]
    if len(names) < 3:
        return None
    return Picture(
        f"pairs_{per_class or 'all'}" if len(study.sizes) > 1 else "pairs",
        f"All pairs of default strategies with {size_name(per_class)}",
        f"Row minus column with {size_name(per_class)}, points ± half the 95% interval ({study.seeds(names)}). "
        f"Bold: told apart after correction over all {len(pairs)} pairs.",
        pairs.drop(columns="study"),
        lambda: _draw(pairs, names, size_name(per_class)),
    )


def _draw(pairs: pd.DataFrame, names: list[str], title: str) -> Figure:
    pairs = pairs.assign(half=(pairs["high"] - pairs["low"]) / 2)
    values, half, p = (
        pairs.pivot_table(index="b", columns="a", values=column).reindex(index=names[1:], columns=names[:-1])
        for column in ("difference", "half", "p_holm")
    )
    texts = values.map(signed) + "\n±" + half.map(number)
    # Training from random weights lies so far behind that it would take all the colours.
    near = pairs[(pairs["a"] != "scratch") & (pairs["b"] != "scratch")]
    reach = np.nanmax([*near["difference"].abs(), pairs["half"].median()])
    drawing = figure(0.5 + 0.4 * len(names))
    panel = drawing.subplots()
    looks = {"vmin": -reach, "vmax": reach, "cmap": "PuOr", "linewidths": 1.5}
    looks["annot_kws"] = {"fontsize": 8, "linespacing": 1.1}
    heat_map(panel, values, texts, [drawn(name) for name in values.columns], 30, **looks)
    for text in panel.texts:
        x, y = text.get_position()
        text.set_fontweight("bold" if p.to_numpy()[int(y), int(x)] < ALPHA else "normal")
    panel.grid(visible=False)
    panel.set_title(title)
    return drawing


def _folded(study: Comparison) -> Iterator[str | Table]:
    header = ("B − A", "Points", "New images", "p", "B won", "Detectable")
    for size in study.sizes:
        pairs = where(study.pairs, per_class=size)
        if len(pairs):
            yield f"<details><summary>{size_name(size)}: {counted(len(pairs), 'pair')}</summary>"
            yield Table(header, tuple(_row(pair) for pair in pairs.to_dict("records")), frozenset(range(1, 6)))
            yield "</details>"


def _row(pair: dict[Any, Any]) -> tuple[str, ...]:
    both = f"`{pair['b']}` − `{pair['a']}`"
    if not np.isfinite(pair["difference"]):
        return (both, no_test(pair), NONE, NONE, f"– of {pair['k']}", NONE)
    return (
        both,
        with_interval(pair["difference"], pair["low"], pair["high"]),
        bracket(pair["low_new_images"], pair["high_new_images"]),
        p_value(pair["p_holm"]) if pair["family"] != "none" else "not adjusted",
        f"{pair['wins']} of {pair['k']}",
        number(pair["smallest_detectable"]),
    )
