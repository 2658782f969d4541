"""Collecting a study: tables of what the store holds, never an empty one in place of a filled one."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import runs
from pipeline.evaluation import Metrics
from pipeline.lr_finder import RangeTest
from pipeline.runs import RunStoreError, StoredRun
from pipeline.stages import cells, collect, command, range_tests
from pipeline.stages.range_tests import StoredTest
from pipeline.strategies import Cell, Phase, Role, Strategy
from pipeline.training import HistoryRow, Run
from tests.pipeline.test_runs import PROVENANCE

HEAD = Strategy("feature_extraction", (Phase(1, {"head": 1e-3}),))
LDA = Strategy("lda", (), head="lda")
STRATEGIES = {HEAD.name: HEAD, LDA.name: LDA}
LABELS = np.array([0, 1] * 6 + [0, 0, 0, 1, 1, 0])  # 12 to draw from, 6 test images
JUDGED = np.array([12, 13, 15, 17])
PILOT = np.array([3, 5])


@dataclass
class Bench:
    """A workbench of two strategies, three of whose images are trained on."""

    missing: set[Role] = field(default_factory=set)  # roles whose runs are of other fingerprints
    roles: Sequence[Role] = ("final", "pilot", "sweep", "ablation")
    params: Any = field(default_factory=lambda: SimpleNamespace(strategy=STRATEGIES.get, strategies=STRATEGIES,
                                                                default=("lda",), ablations={}))  # fmt: skip
    study: Any = field(default_factory=lambda: SimpleNamespace(
        name="tiny", backbone="resnet18", resolution=32, epochs=4, batch_size=2, per_class=(3,), seeds=(0, 1),
        learning_rates="tuned", strategies=("feature_extraction", "lda"), lr_finder_seeds=(), rates_from=None,
        sweep={}, ablations=(),
    ))  # fmt: skip
    subsets: Any = field(
        default_factory=lambda: SimpleNamespace(judged=JUDGED, watched=np.array([1]), overlap={3: 0.25})
    )
    rates: Any = field(default_factory=lambda: SimpleNamespace(
        content={"3": {HEAD.name: {"lr_scale": 3.0, "tried": {"3": {"right": 2, "of": 4, "log_loss": 0.5}}}}},
        scale=lambda size, name: 3.0,
    ))  # fmt: skip
    about: Any = field(default_factory=lambda: SimpleNamespace(source="my garden", notes=("wet leaves",), published=()))
    judge_by: str = "balanced_accuracy"
    precision: str = "float32"
    weights_name: str = "mine.safetensors"
    pretrained_sha256: str = "w" * 64

    @cached_property
    def prepared(self) -> Any:
        card = SimpleNamespace(
            name="leaves", source="a folder", licence="none", sha256="d" * 64, classes=("a", "b"), pool_images=12,
            test_images=6, test_class_counts=(4, 2), notes=("small",),
        )  # fmt: skip
        ids = [f"id{number}" for number in range(len(LABELS))]
        return SimpleNamespace(
            card=card, labels=LABELS, ids=ids, ids_sha256=lambda at: ids_sha256([ids[number] for number in at])
        )

    def declared(self, role: Role) -> tuple[Cell, ...]:
        if role not in self.roles:
            return ()
        if role == "pilot":
            return tuple(Cell("tiny", role, HEAD.name, 3, scale, seed) for scale in (1.0, 3.0) for seed in (1000, 1001))
        names = {"final": (HEAD.name, LDA.name), "sweep": (HEAD.name,), "ablation": ()}[role]
        return tuple(Cell("tiny", role, name, 3, 3.0, seed) for name in names for seed in (0, 1))

    def strategy(self, cell: Cell) -> Strategy:
        strategy: Strategy = self.params.strategy(cell.strategy)
        return strategy.scaled(cell.lr_scale)

    def parts(self, cell: Cell) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        return np.array([0, 1, 2]), np.array([1]), PILOT if cell.role == "pilot" else JUDGED

    def fingerprint(self, cell: Cell) -> str:
        """Content alone: the sweep at the tuned rate is the final run."""
        kind = "pilot" if cell.role == "pilot" else "run"
        salt = "other" if cell.role in self.missing else ""
        return runs.fingerprint({"what": [kind, cell.strategy, cell.lr_scale, cell.seed, salt]})

    def stored(self, cell: Cell) -> StoredRun | None:
        return runs.read(command.RESULTS, cell, self.fingerprint(cell))

    def shared(self) -> dict[str, Any]:
        return {"backbone": "resnet18", "epochs": 4}


def ids_sha256(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A study whose declared runs are all stored; collecting reads and writes under `tmp_path`."""
    bench = Bench()
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(collect, "Workbench", lambda study: bench)
    monkeypatch.setattr(range_tests, "all_stored", lambda bench: iter(()))
    # What a closed form looks like in a report is told where strategies are described.
    monkeypatch.setattr(cells, "described", lambda strategy, epochs: {"phases": len(strategy.phases)})
    for role in bench.roles:
        for cell in bench.declared(role):
            store(bench, cell)
    return bench


def store(bench: Bench, cell: Cell, predicted: Sequence[int] = (0, 1, 1, 0)) -> Path:
    judged = bench.parts(cell)[2]
    history = (
        HistoryRow(1, 1, "train", "loss", 0.5), HistoryRow(1, 1, "train_end", "accuracy", 0.75),
        HistoryRow(1, 1, "val", "accuracy", 0.25),
    )  # fmt: skip
    run = Run(
        cell, "ok", 0.75, 0.25, Metrics(0.5, 0.5, 0.7, 0.1), 2.0, 10, 20, history, (),
        np.array(predicted[: len(judged)], dtype=np.uint16),
    )  # fmt: skip
    return runs.write(command.RESULTS, run, PROVENANCE, bench.fingerprint(cell), bench.prepared.ids_sha256(judged))


def rows(name: str) -> list[dict[str, str]]:
    with (command.REPORTS / "tiny" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def provenance() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((command.REPORTS / "tiny" / "provenance.json").read_text(encoding="utf-8"))
    return content


def tables() -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in (command.REPORTS / "tiny").iterdir()}


def test_every_declared_run_is_a_row_of_its_table(bench: Bench) -> None:
    collect.collect("tiny")
    assert [len(rows(name)) for name in ("declared.csv", "runs.csv", "tune.csv", "sweep.csv", "ablations.csv")] == [
        10, 4, 4, 2, 0,
    ]  # fmt: skip
    run = rows("runs.csv")[0]
    assert (run["dataset"], run["train_accuracy"], run["test_accuracy"]) == ("leaves", "0.75", "0.5")
    assert rows("tune.csv")[0]["test_accuracy"] == ""  # pilots never see a test image
    assert [row["split"] for row in rows("history.csv")[:3]] == ["train", "train_end", "val"]


def test_packed_runs_make_the_same_tables(bench: Bench) -> None:
    collect.collect("tiny")
    before = tables()
    for place in runs.folders(command.RESULTS, "tiny"):
        runs.pack(place)
    collect.collect("tiny")
    assert tables() == before


def test_predictions_are_those_of_the_judged_images_once_a_fingerprint(bench: Bench) -> None:
    collect.collect("tiny")
    with np.load(command.REPORTS / "tiny" / "predictions.npz", allow_pickle=False) as found:
        assert found["ids"].tolist() == ["id12", "id13", "id15", "id17"]
        assert found["labels"].tolist() == LABELS[JUDGED].tolist()
        assert len(set(found["fingerprints"].tolist())) == len(found["fingerprints"]) == 4  # the sweep repeats two
        assert found["predicted"].tolist() == [[0, 1, 1, 0]] * 4
    dataset = provenance()["dataset"]
    assert (dataset["test_images"], dataset["test_class_counts"]) == (4, [3, 1])


def test_provenance_says_how_rates_were_chosen_and_what_decides(bench: Bench) -> None:
    collect.collect("tiny")
    found = provenance()
    said = found["parameters"]
    assert (said["judge_by"], said["precision"], said["pilots"]) == ("balanced_accuracy", "float32", {"3": 2})
    assert said["tuning_images"] == {"3": 4}
    assert said["tried"] == bench.rates.content
    assert said["lr_scales"] == {"3": {"feature_extraction": 3.0}}  # a closed form has no rate
    assert said["updates"] == {"3": 8}
    assert "tuning_notes" not in said
    assert found["dataset"]["overlap"] == {"3": 0.25}
    assert (found["dataset"]["source"], found["dataset"]["sha256"], found["notes"]) == (
        "my garden", "d" * 64, ["wet leaves"],
    )  # fmt: skip
    assert found["backbone"]["weights"] == "mine.safetensors"
    (environment,) = found["environments"]
    assert (environment["precision"], environment["cells"]) == ("float32", 10)
    assert "data_sha256" not in environment
    assert found["trainings"] == 8  # the sweep at the tuned rate was trained once


def test_a_study_of_closed_forms_alone_takes_no_updates(bench: Bench) -> None:
    bench.params = SimpleNamespace(strategy=lambda name: replace(LDA, name=name), ablations={}, default=())
    collect.collect("tiny")
    assert provenance()["parameters"]["updates"] == {}
    assert provenance()["parameters"]["lr_scales"] == {"3": {}}


@pytest.mark.parametrize(("backbone", "said"), [("resnet18", True), ("squeezenet1_1", False)])
def test_of_batchnorm_a_strategy_says_something_where_there_is_some(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, backbone: str, said: bool
) -> None:
    monkeypatch.setattr(cells, "described", lambda strategy, epochs: {"batch_norm": strategy.batch_norm})
    bench.study.backbone = backbone
    collect.collect("tiny")
    assert all(("batch_norm" in block) == said for block in provenance()["parameters"]["strategies"].values())


def test_missing_runs_are_counted_by_strategy(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    runs.path(command.RESULTS, *((cell := bench.declared("final")[0]), bench.fingerprint(cell))).unlink()
    with caplog.at_level(logging.INFO):
        collect.collect("tiny")
    assert "missing: 1 final runs of feature_extraction; `dvc repro` trains them" in caplog.text
    assert len(rows("runs.csv")) == 3


@pytest.mark.parametrize("role", ["final", "pilot", "sweep"])
def test_a_filled_table_is_never_replaced_by_an_empty_one(bench: Bench, role: Role) -> None:
    collect.collect("tiny")
    before = tables()
    bench.missing = {role}
    with pytest.raises(
        RunStoreError, match=r"holds [24] rows, and of [24] declared .* none is found in .*results/tiny"
    ):
        collect.collect("tiny")
    assert tables() == before


def test_a_table_empties_where_the_study_declares_no_such_runs_any_more(bench: Bench) -> None:
    collect.collect("tiny")
    bench.roles = ("final", "pilot")
    collect.collect("tiny")
    assert rows("sweep.csv") == []


def test_a_study_that_has_not_begun_has_empty_tables(bench: Bench) -> None:
    bench.missing = {"final", "pilot", "sweep"}
    collect.collect("tiny")
    assert rows("runs.csv") == []
    assert provenance()["environments"] == []


def test_range_tests_are_not_lost_either(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.study.lr_finder_seeds = (0,)
    found = RangeTest((0.1, 1.0), (0.5, 0.4), (0.5, 0.4), 0.1, 0.1, False)
    monkeypatch.setattr(
        range_tests,
        "all_stored",
        lambda bench: [StoredTest(c, found, vars(PROVENANCE)) for c in range_tests.tested(bench)],
    )
    collect.collect("tiny")
    assert [row["strategy"] for row in rows("lr_suggestions.csv")] == ["feature_extraction"]  # `lda` has no rate
    before = tables()
    monkeypatch.setattr(range_tests, "all_stored", lambda bench: [])
    with pytest.raises(RunStoreError, match=r"lr_suggestions\.csv holds 1 rows, and of 1 declared range tests none"):
        collect.collect("tiny")
    assert tables() == before


def test_predictions_of_other_images_are_refused(bench: Bench) -> None:
    cell = bench.declared("final")[0]
    store(bench, cell, (0, 1))  # of four
    with pytest.raises(RunStoreError, match="2 predictions that don't belong to the 4 images"):
        collect.collect("tiny")
    store(bench, cell)
    bench.prepared.ids[13] = "another image"
    with pytest.raises(RunStoreError, match="4 predictions that don't belong to the 4 images"):
        collect.collect("tiny")
    assert not (command.REPORTS / "tiny").exists()
