"""Loading the collected tables: what is refused, and in which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from analysis.checks import RUN_COLUMNS
from analysis.tables import TablesError, load
from tests.analysis.conftest import Plan, write_tables

SMALL = Plan(
    strategies={"feature_extraction": 0.75, "fine_tune": 0.8},
    seeds=(0, 1),
    epochs=4,
    sweep={"fine_tune_one_rate": (10.0, 1.0)},
    ablations={"fine_tune_batch_norm_frozen": ("fine_tune", -2.0)},
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "quick", SMALL)


def change(path: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    edit(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def set_cell(path: Path, column: str, value: str, row: int = 0) -> None:
    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    change(path, edit)


def repack(path: Path, **changed: npt.NDArray[Any]) -> None:
    with np.load(path) as packed:
        arrays = {name: packed[name] for name in packed.files}
    np.savez_compressed(path, **(arrays | changed))  # type: ignore[arg-type]


def test_the_tables_of_a_whole_study_load_with_nothing_missing(small: Path) -> None:
    tables = load(small)
    assert (len(tables.runs), len(tables.tune), len(tables.sweep), len(tables.ablations)) == (4, 0, 4, 2)
    assert tables.missing_cells.empty


def test_correctness_of_predictions_is_the_test_accuracy_of_the_run(small: Path) -> None:
    tables = load(small)
    for run in tables.runs.to_dict("records"):
        correct = tables.predictions.correct([run["fingerprint"]])
        assert correct.shape == (1, 656)
        assert correct.mean() == pytest.approx(run["test_accuracy"])


def test_both_accuracies_are_read_from_the_predictions_to_the_last_digit_and_one_of_them_decides(
    tmp_path: Path,
) -> None:
    folder = write_tables(tmp_path / "quick", Plan(judge_by="balanced_accuracy", epochs=2))
    for name in ("test_accuracy", "balanced_accuracy"):
        change(folder / "runs.csv", lambda frame, name=name: frame.assign(**{name: frame[name].astype(float).round(4)}))
    tables = load(folder)
    for run in tables.runs.to_dict("records"):
        correct = tables.predictions.correct([run["fingerprint"]])[0]
        recall = [correct[tables.predictions.labels == c].mean() for c in range(2)]
        assert (run["test_accuracy"], run["balanced_accuracy"]) == (correct.mean(), np.mean(recall))
        assert run["judged"] == run["balanced_accuracy"]
    set_cell(folder / "runs.csv", "balanced_accuracy", "0.6", row=1)
    with pytest.raises(TablesError, match=r"has balanced_accuracy 0.6, and predictions.npz gives"):
        load(folder)


def test_tables_that_do_not_say_how_much_draws_share_are_refused(small: Path) -> None:
    path = small / "provenance.json"
    provenance = json.loads(path.read_text())
    del provenance["dataset"]["overlap"]["100"]
    path.write_text(json.dumps(provenance))
    with pytest.raises(TablesError, match=r"dataset.overlap has no size 100"):
        load(small)


def test_tables_that_do_not_say_which_accuracy_decides_are_refused(small: Path) -> None:
    path = small / "provenance.json"
    provenance = json.loads(path.read_text())
    del provenance["parameters"]["judge_by"]
    path.write_text(json.dumps(provenance))
    with pytest.raises(TablesError, match=r"judge_by is None, and should be accuracy or balanced_accuracy"):
        load(small)


def test_two_names_for_one_training_may_share_a_fingerprint(small: Path) -> None:
    runs = pd.read_csv(small / "runs.csv")
    first, other = (runs[runs["strategy"] == name].iloc[0] for name in runs["strategy"].unique()[:2])
    predictions = np.load(small / "predictions.npz")
    row = predictions["fingerprints"].tolist().index(first["fingerprint"])
    predicted, names = predictions["predicted"].copy(), predictions["fingerprints"].copy()
    twin = names.tolist().index(other["fingerprint"])
    predicted[twin], names[twin] = predicted[row], names[row]
    repack(small / "predictions.npz", predicted=predicted, fingerprints=names)
    same = ["fingerprint", "test_accuracy", "balanced_accuracy"]
    runs.loc[other.name, same] = first[same]
    runs.to_csv(small / "runs.csv", index=False)
    loaded = load(small).runs
    assert loaded["fingerprint"].duplicated().sum() == 1


def test_a_declared_cell_without_a_run_is_named_and_not_an_error(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path / "quick", Plan(missing=[("lp_ft", 4)])))
    assert tables.missing_cells[["role", "strategy", "seed"]].to_numpy().tolist() == [["final", "lp_ft", 4]]


def test_the_order_of_rows_does_not_matter(small: Path) -> None:
    before = load(small)
    for name in ("runs", "history", "declared"):
        change(small / f"{name}.csv", lambda frame: frame.iloc[::-1])
    after = load(small)
    for name in ("runs", "history", "declared"):
        pd.testing.assert_frame_equal(getattr(before, name), getattr(after, name))


def test_a_doubled_cell_is_refused_by_name(small: Path) -> None:
    change(small / "runs.csv", lambda frame: pd.concat([frame, frame.iloc[[0]]]))
    with pytest.raises(TablesError, match=r"runs.csv holds this more than once: final feature_extraction.*seed 0"):
        load(small)


def test_a_cell_that_was_never_declared_is_refused(small: Path) -> None:
    change(small / "declared.csv", lambda frame: frame.iloc[1:])
    with pytest.raises(TablesError, match=r"runs.csv: final feature_extraction.*is not in declared.csv"):
        load(small)


def test_history_of_a_cell_without_a_run_is_refused(small: Path) -> None:
    set_cell(small / "history.csv", "seed", "17")
    with pytest.raises(TablesError, match=r"history.csv: final feature_extraction.*seed 17 is in none of the tables"):
        load(small)


def test_an_unknown_column_is_refused_with_the_columns_that_are_right(small: Path) -> None:
    change(small / "runs.csv", lambda frame: frame.assign(f1="0.5"))
    with pytest.raises(TablesError, match=r"unknown column 'f1'; the columns are study, role, dataset"):
        load(small)


def test_a_column_that_is_gone_is_refused(small: Path) -> None:
    change(small / "drift.csv", lambda frame: frame.drop(columns="group"))
    with pytest.raises(TablesError, match=r"drift.csv: no column 'group'"):
        load(small)


@pytest.mark.parametrize(
    ("file", "column", "value", "message"),
    [
        ("runs.csv", "test_accuracy", "78.1", r"line 2: test_accuracy is 78.1, and should be a fraction from 0 to 1"),
        ("runs.csv", "test_accuracy", "", r"has no test_accuracy; every run of this table should"),
        ("runs.csv", "test_accuracy", "0.5", r"predictions.npz gives .* they should be the same"),
        ("runs.csv", "status", "fine", r"line 2: status is 'fine', and should be one of ok, diverged"),
        ("runs.csv", "seconds", "soon", r"line 2: seconds is 'soon', and should be a number"),
        ("runs.csv", "seed", "0.5", r"line 2: seed is '0.5', and should be a whole number"),
        ("runs.csv", "role", "pilot", r"role is 'pilot', and should be 'final'"),
        ("runs.csv", "study", "slow", r"study is 'slow', and should be 'quick', as in provenance.json"),
        ("drift.csv", "group", "layer9", r"group is 'layer9', and should be one of stem, stage1"),
        ("history.csv", "split", "test", r"split is 'test', and should be one of train, train_end, val"),
    ],
)
def test_a_wrong_value_is_refused_with_its_file_and_what_is_right(
    small: Path, file: str, column: str, value: str, message: str
) -> None:
    set_cell(small / file, column, value)
    with pytest.raises(TablesError, match=message):
        load(small)


def test_two_seeds_with_one_fingerprint_are_refused(small: Path) -> None:
    first = pd.read_csv(small / "runs.csv")["fingerprint"].iloc[0]
    set_cell(small / "runs.csv", "fingerprint", str(first), row=1)
    with pytest.raises(TablesError, match="has the fingerprint of another seed"):
        load(small)


def test_predictions_of_another_length_are_refused(small: Path) -> None:
    repack(small / "predictions.npz", labels=np.zeros(655, dtype=np.uint8))
    with pytest.raises(TablesError, match="has 655 labels for 656 ids"):
        load(small)


def test_predictions_without_a_row_for_every_fingerprint_are_refused(small: Path) -> None:
    with np.load(small / "predictions.npz") as packed:
        predicted = packed["predicted"]
    repack(small / "predictions.npz", predicted=predicted[1:])
    with pytest.raises(TablesError, match=r"predicted has the shape \(9, 656\), and should have \(10, 656\)"):
        load(small)


def test_predictions_of_a_run_that_is_not_there_are_refused(small: Path) -> None:
    with np.load(small / "predictions.npz") as packed:
        names = packed["fingerprints"].copy()
    names[0] = "f" * 64
    repack(small / "predictions.npz", fingerprints=names)
    with pytest.raises(TablesError, match="no run has the fingerprint ffff"):
        load(small)


def test_a_test_image_that_is_there_twice_is_refused(small: Path) -> None:
    with np.load(small / "predictions.npz") as packed:
        ids = packed["ids"].copy()
    ids[1] = ids[0]
    repack(small / "predictions.npz", ids=ids)
    with pytest.raises(TablesError, match="holds a test image twice"):
        load(small)


@pytest.mark.parametrize(
    ("field", "values"),
    [("torch", ("2.11.0", "2.12.0")), ("device_kind", ("cpu", "cuda")), ("precision", ("bfloat16", "float32"))],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path, field: str, values: tuple[str, str]) -> None:
    plan = Plan(seeds=(0, 1), epochs=4, environments=[{field: value} for value in values])
    with pytest.raises(TablesError, match=f"the runs differ in {field} .*{values[0]} and {values[1]}"):
        load(write_tables(tmp_path / "quick", plan))


def test_commits_may_differ_and_random_weights_are_no_mix(tmp_path: Path) -> None:
    plan = Plan(seeds=(0, 1), epochs=4, environments=[{"commit": "a" * 40}, {"commit": "b" * 40, "weights_sha256": ""}])
    assert len(load(write_tables(tmp_path / "quick", plan)).provenance["environments"]) == 2


@pytest.mark.parametrize("name", ["runs.csv", "declared.csv", "predictions.npz", "provenance.json"])
def test_a_file_that_is_not_there_is_named_with_the_command_that_writes_it(small: Path, name: str) -> None:
    (small / name).unlink()
    with pytest.raises(TablesError, match=rf"{name} does not exist.*dvc repro"):
        load(small)


def test_broken_files_are_refused_in_words(small: Path) -> None:
    good = (small / "provenance.json").read_text()
    (small / "provenance.json").write_text("{")
    with pytest.raises(TablesError, match="is no JSON"):
        load(small)
    without = {key: value for key, value in json.loads(good).items() if key != "dataset"}
    (small / "provenance.json").write_text(json.dumps(without))
    with pytest.raises(TablesError, match="has no 'dataset'"):
        load(small)
    (small / "provenance.json").write_text(good)
    (small / "predictions.npz").write_bytes(b"not a zip")
    with pytest.raises(TablesError, match=r"predictions.npz cannot be read"):
        load(small)


def test_the_columns_are_those_that_issue_two_promises() -> None:
    assert ",".join(RUN_COLUMNS) == (
        "study,role,dataset,backbone,strategy,per_class,seed,lr_scale,status,train_accuracy,val_accuracy,"
        "test_accuracy,balanced_accuracy,log_loss,ece,seconds,trainable_parameters,total_parameters,fingerprint"
    )
