"""What have others published on these images?"""

from __future__ import annotations

from analysis.comparison import Comparison
from analysis.markdown import Section, Table, number, shown, with_interval
from analysis.statistics import luck_of_the_split
from analysis.tables import size_name


def section(study: Comparison) -> Section | None:
    """Published accuracies among those of the largest size here; None where the study names nobody."""
    entries = study.dataset.get("published", [])
    if not entries:
        return None
    size, images = study.unbeaten[-1], study.dataset["test_images"]
    ranked = []
    for name in study.ran(size.per_class):
        row = study.of(size.per_class, name)
        mean, low, high = (float(row[f"test_accuracy{end}"]) for end in ("", "_low", "_high"))
        method = f"**{name}**" if name in size.advised else f"`{name}`"
        ranked.append((mean, (with_interval(mean, low, high, number), method, "here")))
    for entry in entries:
        cells = (f"{entry['accuracy']:g}", shown(entry["what"]), shown(entry["source"]))
        ranked.append((entry["accuracy"], cells))
    luck = max(100 * luck_of_the_split(entry["accuracy"] / 100, images) for entry in entries)
    rows = tuple(cells for _, cells in sorted(ranked, key=lambda pair: -pair[0]))
    words = (
        f"Plain test accuracy with {size_name(size.per_class)}; here: mean over seeds [95% interval], bold what "
        "nothing beats. Splits, weights and resolution differ between sources.",
        f"Luck of the split: one method scored on two splits of {images:,} test images differs by up to "
        f"{luck:.1f} points (95%, binomial); less than that says nothing.",
    )
    return Section("Published elsewhere", (Table(("Accuracy, %", "Method", "Source"), rows, frozenset({0})), *words))
