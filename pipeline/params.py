"""params.yaml as typed, validated objects; its only reader."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.strategies import (
    ALL,
    GROUPS,
    Augmentation,
    BatchNorm,
    Cell,
    FrozenGroups,
    Normalisation,
    Phase,
    Role,
    Strategy,
    Weights,
    epochs_of_phases,
)

PILOT_SEEDS = (1000, 1001)  # never final ones
TUNED_SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
DATASET_OPTIONS: Mapping[str, frozenset[str]] = {
    "elpv": frozenset({"label"}),
    "cifar10": frozenset({"root"}),
    "folder": frozenset({"path", "name", "licence"}),
}
ELPV_LABELS = ("defective", "four_levels")


class ParamsError(ValueError):
    """A mistake in params.yaml; the message names the key, the value and what would be right."""


@dataclass(frozen=True)
class DatasetSpec:
    """Which data set, and its options."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Ablation:
    """A strategy with exactly one thing changed."""

    of: str
    strategy: Strategy


@dataclass(frozen=True)
class Published:
    """A test accuracy that others have published on the same data set."""

    accuracy: float  # percent
    what: str
    source: str


@dataclass(frozen=True)
class Study:
    """One data set, one backbone, sizes, seeds and epochs."""

    name: str
    dataset: DatasetSpec
    backbone: str
    resolution: int  # pixels
    per_class: tuple[int, ...]  # training images of each class, or ALL alone
    seeds: tuple[int, ...]
    epochs: int  # of every strategy
    learning_rates: Literal["textbook", "tuned"]
    sweep: Mapping[str, tuple[float, ...]]  # strategy or ablation: the lr_scales to try
    ablations: tuple[str, ...]
    batch_size: int
    watched: int  # at most so many images are watched as validation
    sweep_seeds: tuple[int, ...]
    ablation_seeds: Mapping[str, tuple[int, ...]]  # of each ablation
    lr_finder_seeds: tuple[int, ...]  # none: no range tests
    strategies: tuple[str, ...]
    published: tuple[Published, ...]  # to be read beside this study
    source: str  # where the images come from, for the report; empty: as the data set says
    notes: tuple[str, ...]  # what a reader of the report has to know and no table says


@dataclass(frozen=True)
class Params:
    """All of params.yaml."""

    active: tuple[str, ...]
    studies: Mapping[str, Study]
    strategies: Mapping[str, Strategy]
    ablations: Mapping[str, Ablation]

    def study(self, name: str) -> Study:
        """A study by name. Raises ParamsError that names the choices."""
        _known("study", name, "study", self.studies)
        return self.studies[name]

    def strategy(self, name: str) -> Strategy:
        """A strategy or ablation by name."""
        return self.strategies[name] if name in self.strategies else self.ablations[name].strategy

    def cells(
        self,
        study: str,
        role: Role,
        scales: Mapping[tuple[int, str], float] | None = None,
        strategy: str | None = None,
    ) -> tuple[Cell, ...]:
        """The cells that a study declares in one role, in a fixed order.

        `scales` gives the tuned lr_scale by (per_class, strategy), 1 where it says nothing; `strategy` keeps one.
        """
        s, chosen = self.study(study), scales or {}
        if strategy is not None:
            _known("strategy", strategy, "strategy or ablation", (*self.strategies, *self.ablations))
        if role == "pilot":
            wanted = [
                (name, size, scale, seed)
                for name in s.strategies
                for size in s.per_class
                for scale in TUNED_SCALES
                for seed in PILOT_SEEDS
                if s.learning_rates == "tuned"
            ]
        elif role == "final":
            wanted = [
                (name, size, chosen.get((size, name), 1.0), seed)
                for name in s.strategies
                for size in s.per_class
                for seed in s.seeds
            ]
        elif role == "sweep":
            wanted = [
                (name, size, scale, seed)
                for name, tried in s.sweep.items()
                for size in s.per_class
                for scale in tried
                for seed in s.sweep_seeds
            ]
        else:
            wanted = [
                (name, size, chosen.get((size, self.ablations[name].of), 1.0), seed)
                for name in s.ablations
                for size in s.per_class
                for seed in s.ablation_seeds[name]
            ]
        return tuple(
            Cell(study, role, name, size, scale, seed)
            for name, size, scale, seed in wanted
            if strategy is None or strategy == name
        )


# --- what the file may hold -----------------------------------------------------------------------------------------


def _rate(value: Any, what: str = "learning rate") -> float:
    if isinstance(value, str):
        raise ValueError(_text(value))
    try:
        rate = math.nan if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError):
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"{value!r} is no {what}; give a number above 0, such as 1.0e-4")
    return rate


def _text(value: str) -> str:
    """What to say of a number that came as text: YAML takes 1e-4 for text, and whatever stands in quotes."""
    try:
        number = Decimal(value)  # exact: the advice must not change the value
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        return f"{value!r} is text; give a number, such as 1.0e-4"
    digits, _, exponent = f"{number:e}".partition("e")
    meant = f"{digits if '.' in digits else f'{digits}.0'}e{exponent}"
    return f"{value!r} is text; YAML needs a decimal point and no quotes: write {meant}"


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Phase(_Block):
    share: Annotated[float, Field(gt=0, le=1)]
    lr: dict[str, Any]

    @field_validator("lr")
    @classmethod
    def _rates(cls, given: dict[str, Any]) -> dict[str, float]:
        if not given:
            raise ValueError("no group learns; give at least one a rate, such as head: 1.0e-3")
        for group in given:
            if group not in (*GROUPS, "all"):
                raise ValueError(f"no layer group '{group}'; choose from {', '.join(GROUPS)}, or all")
        rates = {}
        for group, value in given.items():
            try:
                rates[group] = _rate(value)
            except ValueError as error:
                raise ValueError(f"{group}: {error}") from None
        return rates

    def plain(self) -> Phase:
        rest = self.lr.get("all")
        rates = {group: self.lr.get(group, rest) for group in GROUPS}
        return Phase(self.share, {group: rate for group, rate in rates.items() if rate is not None})


class _Strategy(_Block):
    phases: Annotated[list[_Phase], Field(min_length=1)]
    weights: Weights = "pretrained"
    batch_norm: BatchNorm = "train"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augmentation: Augmentation = "flip"
    normalisation: Normalisation = "own"
    frozen_groups: FrozenGroups = "frozen"

    @field_validator("phases")
    @classmethod
    def _whole(cls, phases: list[_Phase]) -> list[_Phase]:
        total = sum(phase.share for phase in phases)
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"the shares sum to {total:g}; they must sum to 1")
        return phases

    def plain(self, name: str) -> Strategy:
        return Strategy(
            name,
            tuple(phase.plain() for phase in self.phases),
            self.weights,
            self.batch_norm,
            self.dropout,
            self.augmentation,
            self.normalisation,
            self.frozen_groups,
        )


class _Ablation(_Block):
    of: str
    set: dict[str, Any]


class _Published(_Block):
    accuracy: Annotated[float, Field(gt=0, le=100)]
    what: str
    source: str


class _Study(_Block):
    dataset: Any  # _dataset reads it
    backbone: str
    resolution: Annotated[int, Field(ge=32, le=1024)]
    per_class: list[int] = Field(min_length=1)
    seeds: int | list[int]
    epochs: Annotated[int, Field(ge=1)]
    learning_rates: Literal["textbook", "tuned"]
    sweep: dict[str, list[Any]] = Field(default_factory=dict)
    ablations: list[str] = Field(default_factory=list)
    batch_size: Annotated[int, Field(ge=2)] = 32
    watched: Annotated[int, Field(ge=0, le=500)] = 500
    sweep_seeds: int | None = None
    ablation_seeds: Any = None  # _ablation_seeds reads it
    lr_finder_seeds: int = 0
    strategies: Annotated[list[str], Field(min_length=1)] | None = None
    published: list[_Published] = Field(default_factory=list)
    source: str = ""
    notes: list[str] = Field(default_factory=list)

    @field_validator("per_class", mode="before")
    @classmethod
    def _sizes_or_all(cls, given: Any) -> Any:
        if given == ["all"]:
            return [ALL]
        for size in given if isinstance(given, list) else [given]:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{size!r} is not right; give a list of sizes, such as [10, 100], or [all] alone")
        return given

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, given: Any) -> Any:
        # Here, because a union's errors speak of each of its members.
        for seed in given if isinstance(given, list) else [given]:
            if isinstance(seed, bool) or not isinstance(seed, int) or (isinstance(given, list) and seed < 0):
                raise ValueError(f"{seed!r} is not right; give how many seeds, such as 5, or a list, such as [0, 1, 2]")
        return given


class _File(_Block):
    active: Annotated[list[str], Field(min_length=1)]
    studies: Annotated[dict[str, _Study], Field(min_length=1)]
    strategies: Annotated[dict[str, _Strategy], Field(min_length=1)]
    ablations: dict[str, _Ablation] = Field(default_factory=dict)


# --- reading --------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, of which the plain loader keeps the last in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        line = f"line {key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ParamsError(f"{line}: a list or a block is no key; write a name")
        key = loader.construct_object(key_node)
        if key in seen:
            raise ParamsError(f"{line}: '{key}' is given twice; keep one")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml. Raises ParamsError before any data load."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ParamsError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is no text: byte {error.start} is not UTF-8; save it as UTF-8") from None
    except ParamsError as error:
        raise ParamsError(f"{path}, {error}") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is no YAML: {error}") from error
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise ParamsError(f"{path}: " + "; ".join(_sentences(error))) from None
    try:
        return _checked(file)
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None


def _sentences(error: ValidationError) -> Iterable[str]:
    for detail in error.errors():
        where, value, wrong = detail["loc"], detail["input"], detail["type"]
        wrong_name = where[-1:] == ("[key]",)
        parts = where[:-2] if wrong_name else where
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
        if wrong_name:
            yield f"{key}: the name {value!r} is not text; put it in quotes"
        elif wrong == "extra_forbidden":
            yield f"{key}: unknown key; {_nearest(str(where[-1]), _keys(where))}"
        elif wrong == "missing":
            yield f"{key}: missing; it has to be given"
        elif wrong == "value_error":
            yield f"{key}: {detail['ctx']['error']}"
        elif wrong == "model_type":
            yield f"{key or 'all of it'}: {value!r} is not right: give a block with {', '.join(_keys((*where, '')))}"
        elif wrong == "too_short":
            yield f"{key}: {value!r} is empty; give at least one"
        elif wrong == "float_type" and isinstance(value, str):
            yield f"{key}: {_text(value)}"
        else:
            yield f"{key}: {value!r} is not right: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _keys(where: Sequence[int | str]) -> list[str]:
    """The keys of the block that holds the last part of `where`."""
    blocks: dict[int | str, type[_Block]] = {"studies": _Study, "strategies": _Strategy, "ablations": _Ablation}
    block = _Phase if "phases" in where else blocks.get(where[0], _File) if len(where) == 3 else _File
    return list(block.model_fields)


def _nearest(name: str, known: Iterable[str]) -> str:
    choices = list(known)
    near = difflib.get_close_matches(name, choices, 1, 0.5)
    return (f"did you mean '{near[0]}'? " if near else "") + f"choose from {', '.join(choices)}"


def _known(key: str, name: str, what: str, known: Iterable[str]) -> None:
    choices = list(known)
    if name not in choices:
        raise ParamsError(f"{key}: no {what} '{name}'; {_nearest(name, choices)}")


def _checked(file: _File) -> Params:
    for key, names in (("studies", file.studies), ("strategies", file.strategies), ("ablations", file.ablations)):
        for name in names:
            _folder_name(key, name)
    strategies = {name: block.plain(name) for name, block in file.strategies.items()}
    ablations = {name: _ablation(name, block, file.strategies) for name, block in file.ablations.items()}
    for name in sorted(set(strategies) & set(ablations)):
        raise ParamsError(f"ablations.{name}: a strategy has this name already; choose another")
    studies = {name: _study(name, block, strategies, ablations) for name, block in file.studies.items()}
    for position, name in enumerate(file.active):
        _known(f"active[{position}]", name, "study", studies)
    _once("active", file.active)
    return Params(tuple(file.active), studies, strategies, ablations)


def _folder_name(key: str, name: str) -> None:
    # Names become folders and DVC's stages, train@study-strategy: two hyphenated parts could not be told apart.
    allowed, said = (r"\w[\w-]*", ", _ and -") if key == "studies" else (r"\w+", " and _")
    if not re.fullmatch(allowed, name, re.ASCII):
        raise ParamsError(f"{key}: {name!r} can't name a folder; use letters, digits{said}, such as my_photos")


def _ablation(name: str, block: _Ablation, strategies: Mapping[str, _Strategy]) -> Ablation:
    key = f"ablations.{name}"
    _known(f"{key}.of", block.of, "strategy", strategies)
    if len(block.set) != 1:
        raise ParamsError(f"{key}.set: {len(block.set)} keys are changed; an ablation changes exactly one")
    ((changed, value),) = block.set.items()
    _known(f"{key}.set", changed, "key", _Strategy.model_fields)
    base = strategies[block.of].model_dump()
    try:
        strategy = _Strategy.model_validate({**base, changed: value}).plain(name)
    except ValidationError as error:
        raise ParamsError("; ".join(f"{key}.set.{sentence}" for sentence in _sentences(error))) from None
    if replace(strategy, name=block.of) == strategies[block.of].plain(block.of):
        raise ParamsError(f"{key}.set.{changed}: {value!r} is what {block.of} has already; nothing would change")
    return Ablation(block.of, strategy)


def _study(name: str, block: _Study, strategies: Mapping[str, Strategy], ablations: Mapping[str, Ablation]) -> Study:
    from pipeline.backbones import REGISTRY as BACKBONES

    key = f"studies.{name}"
    _known(f"{key}.backbone", block.backbone, "backbone", BACKBONES)
    for position, strategy in enumerate(block.strategies or ()):
        _known(f"{key}.strategies[{position}]", strategy, "strategy", strategies)
    for swept in block.sweep:
        _known(f"{key}.sweep", swept, "strategy or ablation", (*strategies, *ablations))
    for position, ablation in enumerate(block.ablations):
        _known(f"{key}.ablations[{position}]", ablation, "ablation", ablations)
    _once(f"{key}.per_class", block.per_class)
    _once(f"{key}.ablations", block.ablations)
    _once(f"{key}.strategies", block.strategies or ())
    seeds = tuple(range(min(block.seeds, 2000)) if isinstance(block.seeds, int) else block.seeds)
    _once(f"{key}.seeds", seeds)
    if len(seeds) < 2:
        raise ParamsError(f"{key}.seeds: {block.seeds!r} is fewer than 2 seeds; pairs need at least 2")
    for pilot in PILOT_SEEDS:
        if pilot in seeds:
            raise ParamsError(f"{key}.seeds: {block.seeds!r} holds {pilot}, a pilots' seed; choose seeds without it")
    trained = tuple(block.strategies or strategies)
    plain = {**strategies, **{ablation: entry.strategy for ablation, entry in ablations.items()}}
    for used in (*trained, *block.sweep, *block.ablations):
        try:
            epochs_of_phases([phase.share for phase in plain[used].phases], block.epochs)
        except ValueError as error:
            raise ParamsError(f"{key}.epochs: {used}: {error}") from None
    return Study(
        name=name,
        dataset=_dataset(f"{key}.dataset", block.dataset),
        backbone=block.backbone,
        resolution=block.resolution,
        per_class=tuple(block.per_class),
        seeds=seeds,
        epochs=block.epochs,
        learning_rates=block.learning_rates,
        sweep={swept: _scales(f"{key}.sweep.{swept}", tried) for swept, tried in block.sweep.items()},
        ablations=tuple(block.ablations),
        batch_size=block.batch_size,
        watched=block.watched,
        sweep_seeds=_first(f"{key}.sweep_seeds", block.sweep_seeds, seeds),
        ablation_seeds=_ablation_seeds(f"{key}.ablation_seeds", block, seeds),
        lr_finder_seeds=_first(f"{key}.lr_finder_seeds", block.lr_finder_seeds, seeds) if block.lr_finder_seeds else (),
        strategies=trained,
        published=tuple(Published(entry.accuracy, entry.what, entry.source) for entry in block.published),
        source=block.source,
        notes=tuple(block.notes),
    )


def _dataset(key: str, given: Any) -> DatasetSpec:
    from pipeline.datasets import REGISTRY as DATASETS

    if isinstance(given, str):
        _known(key, given, "data set", DATASETS)
        if given == "folder":
            raise ParamsError(f"{key}: which folder? write {{folder: path, name: what to call it}}")
        return DatasetSpec(given, {})
    if not isinstance(given, dict):
        raise ParamsError(f"{key}: {given!r} is no data set; choose from {', '.join(DATASETS)}")
    if "folder" in given:
        options = {"path": given["folder"], **{option: value for option, value in given.items() if option != "folder"}}
        name = "folder"
    elif len(given) == 1:
        ((name, inside),) = given.items()
        _known(key, str(name), "data set", DATASETS)
        options = inside if inside is not None else {}
        if not isinstance(options, dict):
            raise ParamsError(f"{key}.{name}: {inside!r} is not right; give its options, such as {{label: defective}}")
    else:
        raise ParamsError(
            f"{key}: {given!r} names no single data set; {_nearest(str(next(iter(given), '')), DATASETS)}"
        )
    known = DATASET_OPTIONS.get(name)
    for option, value in options.items():
        if known is not None:
            _known(f"{key}.{option}", str(option), "option", known)
        if not isinstance(value, str):
            raise ParamsError(f"{key}.{option}: {value!r} is no text; put it in quotes")
    if name == "elpv" and "label" in options:
        _known(f"{key}.label", options["label"], "label", ELPV_LABELS)
    return DatasetSpec(name, options)


def _scales(key: str, tried: list[Any]) -> tuple[float, ...]:
    if not tried:
        raise ParamsError(f"{key}: no lr_scale to try; give some, such as [10, 1, 0.1]")
    try:
        scales = tuple(_rate(value, "lr_scale") for value in tried)
    except ValueError as error:
        raise ParamsError(f"{key}: {error}") from None
    _once(key, scales)
    return scales


def _ablation_seeds(key: str, block: _Study, seeds: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """How many seeds each ablation gets: one number, or {ablation: number, all: number of those not named}."""
    given = block.ablation_seeds if isinstance(block.ablation_seeds, dict) else {"all": block.ablation_seeds}
    for name in given:
        _known(key, str(name), "ablation of this study", ("all", *block.ablations))
    counts = {name: given.get(name, given.get("all")) for name in block.ablations}
    for count in given.values():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
            raise ParamsError(f"{key}: {count!r} is no number of seeds; give one, such as 5, or {{all: 5, name: 10}}")
    return {name: _first(key, count, seeds) for name, count in counts.items()}


def _first(key: str, count: int | None, seeds: tuple[int, ...]) -> tuple[int, ...]:
    if count is None:
        return seeds
    if not 2 <= count <= len(seeds):
        raise ParamsError(f"{key}: {count} is not between 2 and the study's {len(seeds)} seeds")
    return seeds[:count]


def _once(key: str, values: Iterable[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ParamsError(f"{key}: {value!r} is given twice; keep one")
        seen.add(value)
