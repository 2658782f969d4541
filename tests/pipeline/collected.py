"""The collected tables and the report of a made-up study, as stages `collect` and `report` leave them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

RUN = [
    "study", "role", "dataset", "backbone", "strategy", "per_class", "seed", "lr_scale", "status", "train_accuracy",
    "val_accuracy", "test_accuracy", "balanced_accuracy", "log_loss", "ece", "seconds", "trainable_parameters",
    "total_parameters", "fingerprint",
]  # fmt: skip
HISTORY = ["study", "role", "strategy", "per_class", "lr_scale", "seed", "phase", "epoch", "split", "metric", "value"]

Result = tuple[str, str, int, int, float]  # role, strategy, images a class, seed, accuracy


def write_collected(place: Path, results: Sequence[Result], epochs: int = 2, judge_by: str = "accuracy") -> Path:
    """Write tables, provenance and report into `place`, a folder called like the study."""
    study = place.name
    (place / "figures").mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[list[object]]] = {"runs": [], "sweep": [], "ablations": [], "tune": []}
    of = dict(zip(("final", "sweep", "ablation", "pilot"), tables, strict=True))
    history: list[list[object]] = []
    for role, strategy, size, seed, accuracy in results:
        tested = "" if role == "pilot" else accuracy
        scores = [0.5, 0.5, tested, accuracy - 0.1, 0.7, 0.05]
        cell = [study, role, "Squares", "resnet18", strategy, size, seed, 1.0, "ok"]
        fingerprint = f"{role}{strategy}{size}{seed}"
        tables[of[role]].append([*cell, *scores, 12.5, 100, 200, fingerprint])
        for epoch in range(1, epochs + 1):
            for split, metric in ((s, m) for s in ("train", "val") for m in ("loss", "accuracy")):
                history.append([study, role, strategy, size, 1.0, seed, 1, epoch, split, metric, accuracy * epoch])
    for name, rows in tables.items():
        _write(place / f"{name}.csv", RUN, rows)
    _write(place / "history.csv", HISTORY, history)
    provenance = {
        "parameters": {
            "study": {"backbone": "resnet18", "resolution": 32, "epochs": epochs, "learning_rates": "tuned"},
            "judge_by": judge_by,
        },
        "dataset": {
            "name": "Squares", "source": "drawn by a test", "sha256": "d" * 64, "classes": ["a", "b"],
            "pool_images": 80, "test_images": 20,
        },
        "finished": "2026-01-02T00:00:00+00:00",
    }  # fmt: skip
    (place / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")
    (place / "report.md").write_text("# Report\n\n![Accuracy by strategy](figures/accuracy.png)\n", encoding="utf-8")
    (place / "details.md").write_text("# Details\n", encoding="utf-8")
    (place / "figures" / "accuracy.png").write_bytes(b"\x89PNG")
    return place


def _write(file: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows(rows)
