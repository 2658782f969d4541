"""How are this study, its images and its weights cited?"""

from __future__ import annotations

from collections import Counter

import pandas as pd

from analysis.comparison import Comparison
from analysis.markdown import Section, number, shown


def section(study: Comparison) -> Section:
    """An entry for BibTeX, and what it builds on."""
    weights = study.tables.provenance["backbone"]["weights"]
    words = (
        f"Cite the images ({shown(study.dataset['name'])}) and the weights ({shown(weights)}) too; where they come "
        "from, and everything else: [details.md](details.md)."
    )
    return Section("Cite", (f"```bibtex\n{bibtex(study)}\n```", words))


def bibtex(study: Comparison) -> str:
    """An entry for this report: dated by the last run, with the commit that made most of them."""
    provenance = study.tables.provenance
    finished = pd.Timestamp(provenance["finished"])
    key = "".join(letter for letter in study.study if letter.isalnum() or letter == "_")
    note = (
        f"Backbone {provenance['backbone']['name']}, data {study.dataset['name']}, "
        f"{number(min(size.k for size in study.unbeaten), 0)} seeds, commit {commit(study)[:12]}"
    )
    lines = [
        f"@misc{{thaw_{key}_{finished.year},",
        f"  title  = {{Thaw: which transfer-learning strategy? Study {_latex(study.study)}}},",
        "  author = {{The Thaw authors}},",
        f"  year   = {{{finished.year}}},",
        f"  month  = {finished:%b},".lower(),
        f"  note   = {{{_latex(note)}}}",
        "}",
    ]
    return "\n".join(lines)


def commit(study: Comparison) -> str:
    """The commit that made most of the runs."""
    made: Counter[str] = Counter()
    for environment in study.tables.provenance["environments"]:
        made[str(environment["commit"])] += int(environment["cells"])
    return max(sorted(made), key=lambda name: made[name])


def _latex(text: str) -> str:
    text = text.replace("\\", "/")
    for special in "_&%#${}":
        text = text.replace(special, f"\\{special}")
    return text
