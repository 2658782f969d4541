"""The guide: what all published studies say together about what to use when (`make guide`)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.claims import Part
from analysis.comparison import REFERENCE, Comparison
from analysis.markdown import NONE, Section, Table, code, counted, listed, number, page, signed
from analysis.paired import BATCH_NORM_TRAIN, by_seed, strategy_order
from analysis.report import renewed, write_pictures
from analysis.situations import SETTINGS, Situation, advice, batch_norm, grid, published, situations
from analysis.tables import ALL, TablesError, where

REPORTS = Path("reports")
CHAPTER = "chapter 9, "
TEXTBOOK = ("approach and rate by size", "when to use what")  # its two decision tables
WORDS: Mapping[str, str] = {"supported": "holds", "refuted": "fails", "open": "open"}
QUESTIONS = (("500 plant images", "tomato", 50), ("5,000 X-rays", "xray_all", ALL))
MISTAKES: Mapping[str, str] = {  # by strategy or ablation
    f"fine_tune{BATCH_NORM_TRAIN}": "BatchNorm updated",
    "fine_tune_no_normalisation": "no normalisation",
    "fine_tune_imagenet_normalisation": "ImageNet's normalisation",
    "fine_tune_whole_image": "the whole image, not the weights' crop",
}
EDITIONS = (
    "The first edition, in the history of this repository, updated BatchNorm in every strategy and judged its rates on "
    "as few as 8 images."
)


def textbook(studies: Sequence[Comparison]) -> Table:
    """The rows of the textbook's decision tables, then what was judged on several studies, with the verdicts."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for study in studies:
        for claim, row in zip(study.claims, study.verdicts, strict=True):
            if row["verdict"] in WORDS:
                source = claim.source.partition(";")[0].partition(" (")[0]
                link = f"[{study.study} {study.images(claim.per_class):,}]({study.study}/report.md)"
                said = found.setdefault((source, " and ".join(map(_formula, claim.parts))), {})
                said.setdefault(WORDS[row["verdict"]], []).append(link)
    rows = []
    for (source, rule), said in sorted(found.items(), key=lambda item: _rank(item[0][0])):
        if _rank(source) == len(TEXTBOOK) and sum(map(len, said.values())) == 1:
            continue
        undecided = said.pop("open", [])
        verdict = "depends" if len(said) > 1 else next(iter(said), "open")
        where = [f"{word}: {', '.join(said[word])}" for word in WORDS.values() if word in said]
        if undecided:
            where.append(f"{len(undecided)} open" if said else ", ".join(undecided))
        words = source.removeprefix(CHAPTER).rpartition(": ")[2] if source.startswith(CHAPTER) else NONE
        rows.append((words, rule, f"**{verdict}**", "; ".join(where)))
    return Table(("Textbook", "Judged as", "Verdict", "Studies, images"), tuple(rows))


def _rank(source: str) -> int:
    """Which decision table a claim's source is; one more than they are for another."""
    return next((i for i, table in enumerate(TEXTBOOK) if source.startswith(CHAPTER + table)), len(TEXTBOOK))


def _formula(part: Part) -> str:
    better, worse = f"`{part.better}`", f"`{part.worse}`"
    if part.minus_at is not None:
        return f"{better} − {worse} shrinks with more images"
    if part.kind == "within":
        return f"{better} = {worse} ± {part.margin:g}"
    margin = "" if part.margin == 0 else f" {'+' if part.margin > 0 else '−'} {abs(part.margin):g}"
    return f"{better} > {worse}{margin}"


def questions(studies: Sequence[Comparison]) -> list[str]:
    """The textbook's questions that a study answers, a line each."""
    answers = []
    for question, study, per_class in QUESTIONS:
        for one in situations(studies):
            if (one.study.study, one.size.per_class) == (study, per_class) and one.use is not None:
                use, accuracy, gain, *_ = advice(one)
                answers.append(f"{question}: {use}, {accuracy}%, {gain} points over `{REFERENCE}` ({one.link(study)}).")
    costly = max(studies, key=lambda study: len(mistakes(study)))
    costs = sorted(mistakes(costly).items(), key=lambda item: item[1])
    if costs:
        one = Situation(costly, costly.unbeaten[-1])
        most = "; ".join(f"{what} {signed(cost)}" for what, cost in costs)
        first = f"check first what cost most in {one.link(one.name)} (points)"
        answers.append(f"A fine-tuned model worse than scratch: {first}: {most}.")
    return answers


def mistakes(study: Comparison) -> dict[str, float]:
    """What each mistake is shown to cost fine-tuning at the largest size, in points, paired by seed."""
    size, tables = study.sizes[-1], study.tables
    mine, swept = (where(table, per_class=size, strategy="fine_tune") for table in (tables.runs, tables.sweep))
    others = where(pd.concat([tables.runs, tables.ablations]), per_class=size)
    highest = swept["lr_scale"].max()
    wrong = {words: where(others, strategy=name) for name, words in MISTAKES.items()}
    wrong[f"rates ×{highest:g}"] = where(swept, lr_scale=highest)
    found = {words: by_seed(mine, runs, tables.correlation(size))[1] for words, runs in wrong.items()}
    return {words: pair.difference for words, pair in found.items() if pair is not None and pair.high < 0}


def default(studies: Sequence[Comparison]) -> str:
    """What to begin with: the strategy that is most often in the set that nothing beats."""
    decided = [one for one in situations(studies) if one.use is not None]
    often = Counter(name for one in decided for name in one.size.advised)
    if not often:
        return "Nothing is decided yet."
    first = max(strategy_order(list(often)), key=lambda name: often[name])
    return f"Begin with **{first}**: nothing beats it in {often[first]} of {counted(len(decided), 'row')} above."


def not_covered(studies: Sequence[Comparison]) -> str:
    """What lies outside all studies, and which of them are not whole."""
    settings = [study.parameters["study"] for study in studies]
    most = max(study.images(size) for study in studies for size in study.sizes)
    seen = {key: sorted({one[key] for one in settings}) for key in SETTINGS}
    lacking = [(study.study, len(study.tables.missing_cells)) for study in studies]
    absent = [f"[{name}]({name}/report.md) ({number(count, 0)} runs)" for name, count in lacking if count]
    return (
        f"More than {number(most, 0)} training images; backbones other than {code(seen['backbone'])}; "
        f"images of other sizes than {listed([f'{pixels} px' for pixels in seen['resolution']])}; more than "
        f"{seen['epochs'][-1]} epochs; tasks other than one class an image."
        + (f" Not whole yet: {listed(absent)}." if absent else "")
    )


def sections(studies: Sequence[Comparison]) -> list[Section]:
    """The whole guide."""
    table, picture = grid(studies)
    words = (
        f"Use: the highest judged mean of what nothing beats; as good: the rest, fastest first. Gain: points "
        f"over `{REFERENCE}`. ±: 95% interval over seeds. Accuracy is balanced where test classes are uneven."
    )
    found = [Section("", (picture, table, words))]
    gains, rules, answered = batch_norm(studies), textbook(studies), questions(studies)
    if gains:
        found.append(Section("BatchNorm: frozen or updated?", (gains,)))
    if rules.rows:
        found.append(Section("The textbook's rows", (rules,)))
    if answered:
        found.append(Section("The textbook's questions", ("\n".join(f"- {line}" for line in answered),)))
    yours = "`make own FOLDER=…` compares it with the others on your images ([README](../README.md))."
    found.append(Section("Your images", (f"{default(studies)} {yours}",)))
    found.append(Section("What no study covers", (not_covered(studies), EDITIONS)))
    return found


def write(reports: Path) -> None:
    """Write guide.md and its figures into the folder of the reports. Raises TablesError where no study is there."""
    studies = published(reports)
    if not studies:
        raise TablesError(f"{reports} holds no published study of this edition; run `dvc repro`")
    content = sections(studies)
    with renewed(reports) as new:
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
