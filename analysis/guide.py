"""The guide: what all published studies say together about what to use when (`make guide`)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import pandas as pd

from analysis.comparison import REFERENCE, Comparison
from analysis.markdown import NONE, Section, Table, code, counted, listed, number, page, plus_minus, signed
from analysis.paired import BATCH_NORM_TRAIN, by_seed, strategy_order
from analysis.power import ALPHA, CITABLE_FROM
from analysis.report import replacing, write_pictures
from analysis.sections.sweep import above_tuned
from analysis.situations import (
    FEW,
    KINDS,
    RERUNS,
    SETTINGS,
    SIMILAR,
    Situation,
    advice,
    batch_norm,
    grid,
    published,
    situations,
    tuned,
    usual,
)
from analysis.tables import ALL, TablesError, where

REPORTS = Path("reports")
WORDS = ("holds", "fails", "open")
QUESTIONS = (("500 plant images", "tomato", 50), ("5,000 X-rays", "xray_all", ALL))
MISTAKES: Mapping[str, str] = {  # by strategy or ablation
    f"fine_tune{BATCH_NORM_TRAIN}": "BatchNorm updated",
    "fine_tune_no_normalisation": "no normalisation",
    "fine_tune_imagenet_normalisation": "ImageNet's normalisation, not the weights' own",
    "fine_tune_whole_image": "the whole image, not the weights' crop",
}


@dataclass(frozen=True)
class Decision:
    """A row of a decision table: what is advised for data of this likeness and size, as one strategy above another."""

    data: str
    similar: bool
    fewest: float  # training images in all
    below: float
    advice: str
    better: str
    worse: str

    def covers(self, one: Situation) -> bool:
        """Whether a situation is of this kind."""
        name = one.study.dataset["name"]
        likeness = name in KINDS and (name in SIMILAR) == self.similar
        return likeness and self.fewest <= one.images < self.below


# The textbook gives no sizes for "medium" and "large"; where it does, in its second table, they are these. It has no
# "medium" for different data, so that all that is not small counts as large there.
DECISIONS = (
    Decision("similar, under 1,000", True, 0, 1e3, "feature extraction only", "feature_extraction", "fine_tune"),
    Decision("similar, 1,000 to 10,000", True, 1e3, 1e4, "fine-tuning", "fine_tune", "feature_extraction"),
    Decision("similar, 1,000 to 10,000", True, 1e3, 1e4, "fine-tune the last few layers", "last_block", "fine_tune"),
    Decision("similar, 10,000 and more", True, 1e4, inf, "fine-tune all", "fine_tune", "last_block"),
    Decision("different, under 1,000", False, 0, 1e3, "feature extraction", "feature_extraction", "fine_tune"),
    Decision("different, under 1,000", False, 0, 1e3, "careful fine-tuning", "fine_tune", "feature_extraction"),
    Decision("different, 1,000 and more", False, 1e3, inf, "from scratch", "scratch", "fine_tune"),
)
KEEP_FROZEN = "Keep it frozen: nowhere is that shown to lose, and a step costs less."
READING = (
    "Studies: points that the first is better by, ± of that pair alone. *Holds*, *fails*: the first is shown to be "
    f"better, or the second, after correction over all pairs of that size; *open*: neither. No verdict: *{FEW}*, under "
    f"{CITABLE_FROM}, and *{RERUNS}*, where every seed trained on all images. Similar to ImageNet's photographs: "
    f"{listed(SIMILAR)}; different: {listed([name for name in KINDS if name not in SIMILAR])}. For different data the "
    "textbook, a chapter on transfer learning, has no medium size: from 1,000 images on, it is read as large. Its "
    "other rules, with margins fixed before the runs, are judged in every report."
)
EDITIONS = (
    "The first edition, in the history of this repository, updated BatchNorm in every strategy and judged its rates on "
    "as few as 8 images. In this one the search for rates was mended after results had been seen; the details of "
    "[eurosat](eurosat/details.md) and of [xray](xray/details.md) say what that changed."
)


def decisions(studies: Sequence[Comparison]) -> Table:
    """The rows of the textbook's two decision tables, judged by the paired runs of every situation they speak of."""
    rows = []
    for decision in DECISIONS:
        said: dict[str, list[str]] = {}
        for one in situations(studies):
            if decision.covers(one) and (gain := one.gain(decision.better, decision.worse)):
                told = ("holds" if gain["difference"] > 0 else "fails") if gain["p_holm"] < ALPHA else "open"
                told = one.unjudged or told
                effect = plus_minus(gain["difference"], gain["low"], gain["high"])
                said.setdefault(told, []).append(f"{one.link(one.name)} {effect}")
        rule = f"`{decision.better}` > `{decision.worse}`"
        rows.append((decision.data, decision.advice, rule, *_summed(said)))
    return Table(("Data", "Textbook's advice", "Judged as", "Verdict", "Studies"), tuple(rows))


def _summed(said: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """The verdict of all studies, and which of them say what."""
    words = [word for word in (*WORDS, FEW, RERUNS) if word in said]
    judged = [word for word in words if word in WORDS]
    shown = [word for word in judged if word != "open"]
    nothing = "no verdict" if words else "not tested"
    verdict = "**depends**" if len(shown) > 1 else f"**{next(iter(shown or judged), nothing)}**"
    if len(shown) == 1 and "open" in said:
        verdict += f" in {len(said[shown[0]])}, open in {len(said['open'])}"
    return verdict, "; ".join(f"{word}: {', '.join(said[word])}" for word in words) or NONE


def questions(studies: Sequence[Comparison]) -> list[str]:
    """The textbook's questions that a study answers, a line each."""
    answers = []
    for question, study, per_class in QUESTIONS:
        for one in situations(studies):
            if (one.study.study, one.size.per_class) == (study, per_class) and one.use is not None:
                use, accuracy, gain, *_ = advice(one)
                shown = f"{use}, {accuracy}%, {gain} points over `{REFERENCE}`"
                of = f"{one.images:,} to train on" + ("" if one.study.draws else f", {RERUNS}")
                answers.append(f"{question}: {shown} ({one.link(study)}, {of}).")
    costly = max(studies, key=lambda study: len(mistakes(study)))
    costs = sorted(mistakes(costly).items(), key=lambda item: item[1])
    if len(costs) > 1:  # one alone was not the first of any
        one = Situation(costly, costly.unbeaten[-1])
        most = "; ".join(f"{what} {signed(cost)}" for what, cost in costs)
        first = f"check first what cost most in {one.link(one.name)} (points)"
        answers.append(f"A fine-tuned model worse than scratch: {first}: {most}.")
    return answers


def mistakes(study: Comparison) -> dict[str, float]:
    """What each mistake is shown to cost fine-tuning at the largest size, in points, paired by seed, from one on."""
    size, tables = study.sizes[-1], study.tables
    mine, swept = (where(table, per_class=size, strategy="fine_tune") for table in (tables.runs, tables.sweep))
    others = where(pd.concat([tables.runs, tables.ablations]), per_class=size)
    highest = swept["lr_scale"].max()
    wrong = {words: where(others, strategy=name) for name, words in MISTAKES.items()}
    wrong[f"rates ×{highest:g}"] = where(swept, lr_scale=highest)
    found = {words: by_seed(mine, runs, tables.correlation(size))[1] for words, runs in wrong.items()}
    return {
        words: pair.difference
        for words, pair in found.items()
        if pair is not None and pair.high < 0 and pair.difference <= -1
    }


def default(studies: Sequence[Comparison]) -> str:
    """What to begin with: the strategy that is most often in the set that nothing beats."""
    decided = [one for one in situations(studies) if one.use is not None]
    often = Counter(name for one in decided for name in one.size.advised)
    if not often:
        return "Nothing is decided yet."
    first = max(strategy_order(list(often)), key=lambda name: often[name])
    judged = [one.told(first, REFERENCE) for one in decided if not one.unjudged]
    better = (
        f"better than `{REFERENCE}` in {sum(judged) or 'none'} of the {counted(len(judged), 'row')} that are judged "
        f"({CITABLE_FROM} seeds or more, each with images of its own), and "
    )
    lost = [one for one in decided if first in (*one.size.beaten, *one.size.doubtful)]
    named = ", ".join(_lost(one, first) for one in lost)
    return (
        f"Begin with **{first}**: it is shown to be {better * bool(judged)}worse than another in {len(lost) or 'none'} "
        f"of all {len(decided)}{f' ({named})' * bool(lost)}. {tuned(studies, first)}"
    ).rstrip()


def _lost(one: Situation, strategy: str) -> str:
    """Where a strategy is shown to be worse than another, and whether a sweep tells why."""
    better = any(name == strategy for name, *_ in above_tuned(one.study, one.size.per_class))
    return f"{one.name}{', at a rate that its sweep beats' * better}"


def not_covered(studies: Sequence[Comparison]) -> str:
    """What lies outside all studies, and which of them are not whole."""
    settings = [study.parameters["study"] for study in studies]
    most = max(study.images(size) for study in studies for size in study.sizes)
    seen = {key: sorted({one[key] for one in settings}) for key in SETTINGS}
    lacking = [(study.study, len(study.tables.missing_cells)) for study in studies]
    absent = [f"[{name}]({name}/report.md) ({number(count, 0)} runs missing)" for name, count in lacking if count]
    return (
        f"More than {number(most, 0)} training images; backbones other than {code(seen['backbone'])}; "
        f"images of other sizes than {listed([f'{pixels} px' for pixels in seen['resolution']])}; other than "
        f"{listed([str(epochs) for epochs in seen['epochs']])} epochs; tasks other than one class an image."
        + (f" Not whole yet: {listed(absent)}." if absent else "")
    )


def sections(studies: Sequence[Comparison]) -> list[Section]:
    """The whole guide."""
    table, picture = grid(studies)
    words = (
        f"All with {usual(studies)}, where the study does not say otherwise. Use: the highest mean of those framed, "
        f"bold where {CITABLE_FROM} seeds or more tell it apart from `{REFERENCE}` after correction over all pairs of "
        "its row, which is stricter than a frame. "
        "±: 95% interval over seeds; with all images over reruns alone, which speak of no other images. A run: one "
        "training, tuning not counted. Accuracy is balanced where test classes are uneven. "
        f"[What each strategy is]({studies[0].study}/details.md#what-each-strategy-is)."
    )
    yours = "`make own FOLDER=…` tunes and compares all on your images ([README](../README.md))."
    found = [Section("", (f"{default(studies)} {yours}", picture, table, words))]
    gains, answered = batch_norm(studies), questions(studies)
    if gains:
        kept = [] if (gains.data["high"] < 0).any() else [KEEP_FROZEN]
        found.append(Section("BatchNorm: frozen or updated?", (*kept, gains)))
    found.append(Section("The textbook's decision tables, row by row", (decisions(studies), READING)))
    if answered:
        found.append(Section("The textbook's questions", ("\n".join(f"- {line}" for line in answered),)))
    found.append(Section("What no study covers", (not_covered(studies), EDITIONS)))
    return found


def write(reports: Path) -> None:
    """Write guide.md and its figures into the folder of the reports. Raises TablesError where no study is there."""
    content = sections(published(reports))
    with replacing(reports) as new:
        write_pictures(content, new / "figures")
        (new / "guide.md").write_bytes(page("Which strategy for which images?", content).encode())


def main() -> None:
    """Write the guide of the reports in this folder."""
    try:
        write(REPORTS)
    except TablesError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
