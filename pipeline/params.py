"""params.yaml as typed, validated objects; its only reader."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline import plain_yaml
from pipeline.errors import UserError
from pipeline.files import shown
from pipeline.strategies import (
    ALL,
    BACKBONES,
    GROUPS,
    Augmentation,
    BatchNorm,
    Cell,
    Crop,
    FrozenGroups,
    Head,
    Learn,
    Metric,
    Normalisation,
    Phase,
    Precision,
    Role,
    Strategy,
    Weights,
    epochs_of_phases,
)
from pipeline.tuning import PILOT_SEEDS, Rates

DATASET_OPTIONS: Mapping[str, frozenset[str]] = {  # of those that have some
    "elpv": frozenset({"label"}),
    "cifar10": frozenset({"root"}),
    "folder": frozenset({"path", "name", "licence"}),
}
ELPV_LABELS = ("defective", "four_levels")


class ParamsError(UserError):
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
class About:
    """What only a reader of a study's report needs."""

    source: str = ""  # where the images come from; empty: as the data set says
    notes: tuple[str, ...] = ()  # what a reader has to know and no table says
    published: tuple[Published, ...] = ()  # to be read beside this study


@dataclass(frozen=True)
class Study:
    """One data set, one backbone, sizes, seeds and epochs."""

    name: str
    dataset: DatasetSpec
    backbone: str
    weights: str | None  # a file of the user's own, instead of the backbone's pretrained weights
    resolution: int  # pixels
    per_class: tuple[int, ...]  # training images of each class, or ALL alone
    seeds: tuple[int, ...]
    epochs: int  # of every strategy
    learning_rates: Literal["textbook", "tuned"] | float  # a number: one lr_scale for all
    rates_from: str | None  # the study whose tuned scales this one takes
    precision: Precision | None  # None: what suits the device
    judge_by: Metric | None  # None: what the test images' classes ask for
    test_images: int | None  # of the test split; None: all
    sweep: Mapping[str, tuple[float, ...]]  # strategy or ablation: the lr_scales to try
    ablations: tuple[str, ...]
    batch_size: int
    watched: int  # at most so many images are watched as validation
    sweep_seeds: tuple[int, ...]
    ablation_seeds: Mapping[str, tuple[int, ...]]  # of each ablation
    lr_finder_seeds: tuple[int, ...]  # none: no range tests
    strategies: tuple[str, ...]

    @property
    def pilots(self) -> bool:
        """Whether rates are tuned on this study's own pilots."""
        return self.learning_rates == "tuned" and self.rates_from is None


@dataclass(frozen=True)
class Params:
    """All of params.yaml."""

    active: tuple[str, ...]
    studies: Mapping[str, Study]
    strategies: Mapping[str, Strategy]
    default: tuple[str, ...]  # the strategies of a study that names none
    ablations: Mapping[str, Ablation]
    about: Mapping[str, About]

    def study(self, name: str) -> Study:
        """A study by name. Raises ParamsError that names the choices."""
        _known("study", name, "study", self.studies)
        return self.studies[name]

    def known_strategy(self, name: str) -> Strategy:
        """A strategy by name. Raises ParamsError that names the choices."""
        _known("strategy", name, "strategy", self.strategies)
        return self.strategies[name]

    def strategy(self, name: str) -> Strategy:
        """A strategy or ablation by name."""
        return self.strategies[name] if name in self.strategies else self.ablations[name].strategy

    def crops(self, study: str) -> tuple[Crop, ...]:
        """How the images of a study are cut, by any of its strategies."""
        s = self.study(study)
        found = {self.strategy(name).crop for name in (*s.strategies, *s.sweep, *s.ablations)}
        return ("own", "whole") if "whole" in found else ("own",)

    def cells(
        self,
        study: str,
        role: Role,
        rates: Rates,
        pilots: Mapping[int, Sequence[int]],
        strategy: str | None = None,
    ) -> tuple[Cell, ...]:
        """The cells that a study declares in one role, in a fixed order.

        `rates` says which lr_scales were tried and chosen, `pilots` which seeds try them at each size; `strategy`
        keeps one. A closed-form head on all images is the same whatever the seed, so it has one cell.
        """
        s = self.study(study)
        if role == "pilot":
            wanted = [
                (name, size, scale, seed)
                for name in s.strategies
                for size in s.per_class
                for scale in (rates.tried(size, name) if s.pilots else ())
                for seed in pilots[size]
            ]
        elif role == "final":
            wanted = [
                (name, size, self._scale(name, rates.scale(size, name)), seed)
                for name in s.strategies
                for size in s.per_class
                for seed in self._seeds(name, size, s.seeds)
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
                (name, size, self._scale(name, rates.scale(size, self.ablations[name].of)), seed)
                for name in s.ablations
                for size in s.per_class
                for seed in self._seeds(name, size, s.ablation_seeds[name])
            ]
        return tuple(
            Cell(study, role, name, size, scale, seed)
            for name, size, scale, seed in wanted
            if strategy is None or strategy == name
        )

    def _scale(self, name: str, scale: float) -> float:
        return 1.0 if self.strategy(name).closed_form else scale

    def _seeds(self, name: str, size: int, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return seeds[:1] if size == ALL and self.strategy(name).closed_form else seeds


# --- what the file may hold -----------------------------------------------------------------------------------------


LISTED = 30  # so many mistakes are said at once
MOST = 1_000_000  # epochs or images of a batch: more is a slip of the hand, and no longer fits into a float


class _Short(reprlib.Repr):
    """A value as it may stand in a message: short, and as YAML writes it where that is another way than Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict = 2, 6, 6
        self.maxstring = self.maxother = self.maxlong = 60

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"

    def repr_NoneType(self, value: None, level: int) -> str:  # reprlib looks for the type's name
        return "nothing (~)"


_said = _Short().repr


def _rate(value: Any, what: str = "learning rate", or_else: str = "") -> float:
    if isinstance(value, str):
        raise ValueError(_text(value, or_else))
    try:
        rate = math.nan if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError):
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"{_said(value)} is no {what}; give {or_else}a number above 0, such as 1.0e-4")
    return rate


def _text(value: str, or_else: str = "", whole: bool = False) -> str:
    """What to say of a number that came as text: YAML takes 1e-4 for text, and whatever stands in quotes."""
    said, kind = _said(value), "a whole number, such as 5" if whole else f"{or_else}a number, such as 1.0e-4"
    try:
        number = Decimal(value)  # exact: the advice must not change the value
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or number.adjusted() > 100 or (whole and number % 1):
        return f"{said} is text; give {kind}"
    if whole and re.fullmatch(r"[-+]?0[0-7]+", value):
        return f"{said} is text to Thaw and {int(value, 8)} or {int(number)} to others; write {int(number)}"
    if whole:
        return f"{said} is text; write {int(number)}"
    digits, _, exponent = f"{number:e}".partition("e")
    meant = f"{digits if '.' in digits else f'{digits}.0'}e{exponent}"
    return f"{said} is text; YAML needs a decimal point and no quotes: write {meant}"


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
                raise ValueError(f"no layer group {_said(group)}; choose from {', '.join(GROUPS)}, or all")
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
    phases: list[_Phase] = Field(default_factory=list)
    weights: Weights = "pretrained"
    batch_norm: BatchNorm | None = None  # None: frozen where there is something to keep
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augmentation: Augmentation = "flip"
    normalisation: Normalisation = "own"
    frozen_groups: FrozenGroups = "frozen"
    learn: Learn = "all"
    head: Head = "linear"
    crop: Crop = "own"
    interpolate: Annotated[float, Field(ge=0, le=1)] = 0.0
    default: bool = True

    @field_validator("phases")
    @classmethod
    def _whole(cls, phases: list[_Phase]) -> list[_Phase]:
        total = sum(phase.share for phase in phases)
        if phases and not math.isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"the shares sum to {total:g}; they must sum to 1")
        return phases

    @model_validator(mode="after")
    def _sound(self) -> _Strategy:
        """What is no experiment: settings that exclude each other, or that nothing would read."""
        closed = self.head != "linear"
        learning = [set(phase.plain().rates) for phase in self.phases]
        if closed and self.phases:
            raise ValueError(f"head {self.head} is computed, not trained; leave out phases")
        if not closed and not self.phases:
            raise ValueError("phases: missing; give at least one, such as [{share: 1, lr: {head: 1.0e-3}}]")
        read = {"head", "normalisation", "crop", "default", "phases"}
        unread = [key for key, field in type(self).model_fields.items() if getattr(self, key) != field.get_default()]
        if closed and set(unread) - read - ({"batch_norm"} if self.batch_norm == "frozen" else set()):
            raise ValueError(
                f"head {self.head} is computed on the features of pretrained weights; give nothing beside it but "
                "normalisation and crop"
            )
        if self.weights == "none" and self.batch_norm == "frozen":
            raise ValueError("batch_norm frozen with weights none would keep statistics that nothing was learnt from")
        if self.learn == "norms" and self.resolved == "frozen":
            raise ValueError("learn norms with batch_norm frozen leaves the head alone; give statistics_fixed or train")
        if self.interpolate and not ({"head"} in learning and learning[-1] != {"head"}):
            raise ValueError(
                "interpolate goes back to the end of a phase in which the head learns alone; there is none"
            )
        return self

    @property
    def resolved(self) -> BatchNorm:
        """What BatchNorm of the learning groups does where nothing is said."""
        return self.batch_norm or ("frozen" if self.weights == "pretrained" else "train")

    def plain(self, name: str) -> Strategy:
        return Strategy(
            name,
            tuple(phase.plain() for phase in self.phases),
            self.weights,
            self.resolved,
            self.dropout,
            self.augmentation,
            self.normalisation,
            self.frozen_groups,
            self.learn,
            self.head,
            self.crop,
            self.interpolate,
        )


class _Ablation(_Block):
    of: str
    set: dict[str, Any]


class _Published(_Block):
    accuracy: Annotated[float, Field(gt=0, le=100)]
    what: str
    source: str


class _About(_Block):
    source: str = ""
    notes: list[str] = Field(default_factory=list)
    published: list[_Published] = Field(default_factory=list)

    def plain(self) -> About:
        published = tuple(Published(entry.accuracy, entry.what, entry.source) for entry in self.published)
        return About(self.source, tuple(self.notes), published)


class _Study(_Block):
    dataset: Any  # _dataset reads it
    backbone: Any  # _backbone reads it
    resolution: Annotated[int, Field(ge=32, le=1024)]
    per_class: list[int] = Field(min_length=1)
    seeds: int | list[int]
    epochs: Annotated[int, Field(ge=1, le=MOST)]
    learning_rates: Any
    rates_from: str | None = None
    precision: Precision | None = None
    judge_by: Metric | None = None
    test_images: Annotated[int, Field(ge=2)] | None = None
    sweep: dict[str, list[Any]] = Field(default_factory=dict)
    ablations: list[str] = Field(default_factory=list)
    batch_size: Annotated[int, Field(ge=2, le=MOST)] = 32
    watched: Annotated[int, Field(ge=0, le=500)] = 200
    sweep_seeds: int | None = None
    ablation_seeds: Any = None  # _ablation_seeds reads it
    lr_finder_seeds: int = 0
    strategies: Annotated[list[str], Field(min_length=1)] | None = None

    @field_validator("learning_rates")
    @classmethod
    def _words_or_scale(cls, given: Any) -> Any:
        return given if given in ("textbook", "tuned") else _rate(given, "lr_scale", "textbook, tuned or ")

    @field_validator("per_class", mode="before")
    @classmethod
    def _sizes_or_all(cls, given: Any) -> Any:
        if given == ["all"]:
            return [ALL]
        for size in given if isinstance(given, list) else [given]:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{_said(size)} is not right; give a list of sizes, such as [10, 100], or [all] alone")
        return given

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, given: Any) -> Any:
        # Here, because a union's errors speak of each of its members.
        for seed in given if isinstance(given, list) else [given]:
            if isinstance(seed, bool) or not isinstance(seed, int) or (isinstance(given, list) and seed < 0):
                raise ValueError(
                    f"{_said(seed)} is not right; give how many seeds, such as 5, or a list, such as [0, 1, 2]"
                )
        return given


class _File(_Block):
    active: Annotated[list[str], Field(min_length=1)]
    studies: Annotated[dict[str, _Study], Field(min_length=1)]
    strategies: Annotated[dict[str, _Strategy], Field(min_length=1)]
    ablations: dict[str, _Ablation] = Field(default_factory=dict)
    about: dict[str, _About] = Field(default_factory=dict)


# --- reading --------------------------------------------------------------------------------------------------------


class _Mistakes(list[str]):
    """All that is wrong with a file, so that it is said at once."""

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Go on behind a mistake, and note it."""
        try:
            yield
        except ParamsError as error:
            self.append(str(error))


FILE = Path("params.yaml")


def load(path: Path = FILE) -> Params:
    """Read and check params.yaml. Raises ParamsError, before any data load, that lists every mistake."""
    mistakes = _Mistakes()
    try:
        content, wrong_keys = plain_yaml.read(path)
    except plain_yaml.YamlError as error:
        raise ParamsError(str(error)) from error
    mistakes += wrong_keys
    loaded = _checked(content, mistakes)
    if loaded is None:
        several = [] if len(mistakes) == 1 else [f"{len(mistakes)} mistakes"]
        more = [f"and {len(mistakes) - LISTED} more"] if len(mistakes) > LISTED else []
        raise ParamsError(f"{path}: " + "\n  ".join([*several, *map(shown, mistakes[:LISTED]), *more]))
    return loaded


def _sentences(error: ValidationError) -> Iterator[str]:
    details = error.errors()
    strangers = [(detail["loc"][:-1], str(detail["loc"][-1])) for detail in details if detail["type"] == UNKNOWN]
    for detail in details:
        where, value, wrong = detail["loc"], detail["input"], detail["type"]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")
        if wrong == UNKNOWN:
            yield f"{key}: unknown key; {_nearest(str(where[-1]), _keys(where))}"
        elif wrong == "missing":
            beside = [name for at, name in strangers if at == where[:-1]]
            if str(where[-1]) not in [
                _near(name, _keys(where)) for name in beside
            ]:  # else it is there, misspelt, and that is said
                yield f"{key}: missing; it has to be given"
        elif wrong == "value_error":
            yield f"{key}: {detail['ctx']['error']}" if key else str(detail["ctx"]["error"])
        elif wrong == "model_type":
            said = f"{_said(value)} is not right: give a block with {', '.join(_keys((*where, '')))}"
            yield f"{key or 'all of it'}: {said}"
        elif wrong == "too_short":
            yield f"{key}: {_said(value)} is empty; give at least one"
        elif wrong in ("float_type", "int_type") and isinstance(value, str):
            yield f"{key}: {_text(value, whole=wrong == 'int_type')}"
        elif wrong == "list_type":
            one = value if isinstance(value, str) and value.isidentifier() else "name"
            yield f"{key}: {_said(value)} is not right: give a list, such as [{one}]"
        else:
            right = RIGHT.get(wrong) or f"{detail['msg'][0].lower()}{detail['msg'][1:]}"
            yield f"{key}: {_said(value)} is not right: {right}"


UNKNOWN = "extra_forbidden"
RIGHT = {  # by pydantic's word for what is wrong
    "dict_type": "give a block, or leave the key out",
    "string_type": "put it in quotes, if it is meant as text",
    "int_type": "give a whole number, such as 5",
    "float_type": "give a number, such as 0.5",
    "bool_type": "write true or false",
}


def _keys(where: Sequence[int | str]) -> list[str]:
    """The keys of the block that holds the last part of `where`."""
    kind = BLOCKS.get(str(where[0])) if len(where) >= 3 else None
    if kind is None:
        return list(_File.model_fields)
    inner: dict[str, type[_Block]] = {"phases": _Phase, "published": _Published}
    return list((inner.get(str(where[2]), kind) if len(where) > 3 else kind).model_fields)


def _nearest(name: str, known: Iterable[str]) -> str:
    choices = list(known)
    near = _near(name, choices)
    return (f"did you mean '{near}'? " if near else "") + (
        f"choose from {', '.join(choices)}" if choices else "there is none"
    )


def _near(name: str, known: Sequence[str]) -> str:
    return next(iter(difflib.get_close_matches(name[:100], known, 1, 0.5)), "")


def _known(key: str, name: str, what: str, known: Iterable[str]) -> None:
    choices = list(known)
    if name not in choices and (choices or what not in ("study", "strategy")):  # that there are none is said elsewhere
        raise ParamsError(f"{key}: no {what} {_said(name)}; {_nearest(name, choices)}")


BLOCKS: Mapping[str, type[_Block]] = {
    "studies": _Study,
    "strategies": _Strategy,
    "ablations": _Ablation,
    "about": _About,
}
B = TypeVar("B", bound=_Block)


def _sound(content: Any, section: str, kind: type[B]) -> dict[str, B]:
    """The blocks of a section in which nothing is wrong by itself."""
    found = {}
    blocks = content.get(section) if isinstance(content, dict) else None
    for name, block in blocks.items() if isinstance(blocks, dict) else ():
        with contextlib.suppress(ValidationError):
            found[name] = kind.model_validate(block)
    return found


def _names(content: Any, section: str) -> dict[str, Any]:
    """The names in a section, sound or not: who speaks of one makes no second mistake."""
    blocks = content.get(section) if isinstance(content, dict) else None
    return blocks if isinstance(blocks, dict) else {}


def _checked(content: Any, mistakes: _Mistakes) -> Params | None:
    """Everything in the file, or None where there are mistakes, which are noted."""
    try:
        _File.model_validate(content)
    except ValidationError as error:
        mistakes += _sentences(error)
    file = {section: _names(content, section) for section in BLOCKS}
    for section in ("studies", "strategies", "ablations"):
        for name in file[section]:
            with mistakes.noted():
                _folder_name(section, name)
    blocks = _sound(content, "strategies", _Strategy)
    strategies = {name: block.plain(name) for name, block in blocks.items()}
    ablations = {}
    for name, ablation in _sound(content, "ablations", _Ablation).items():
        with mistakes.noted():
            _known(f"ablations.{name}.of", ablation.of, "strategy", file["strategies"])
            if ablation.of in blocks:
                ablations[name] = _ablation(name, ablation, blocks)
    for name in sorted(set(file["strategies"]) & set(file["ablations"])):
        mistakes.append(f"ablations.{name}: a strategy has this name already; choose another")
    default = tuple(name for name, block in blocks.items() if block.default)
    studies = {}
    for name, given in _sound(content, "studies", _Study).items():
        study = _study(name, given, file, strategies, default, ablations, mistakes)
        if study is not None:
            studies[name] = study
    for study in studies.values():
        with mistakes.noted():
            _check_inheritance(study, file["studies"], studies, strategies)
    for name in file["about"]:
        with mistakes.noted():
            _known("about", name, "study", file["studies"])
    active = content.get("active") if isinstance(content, dict) else None
    if isinstance(active, list) and all(isinstance(name, str) for name in active):
        for position, name in enumerate(active):
            with mistakes.noted():
                _known(f"active[{position}]", name, "study", file["studies"])
        with mistakes.noted():
            _once("active", active)
    if mistakes:
        return None
    notes = _sound(content, "about", _About)
    about = {name: notes.get(name, _About()).plain() for name in studies}
    return Params(tuple(content["active"]), studies, strategies, default, ablations, about)


def _check_inheritance(
    study: Study, named: Iterable[str], studies: Mapping[str, Study], strategies: Mapping[str, Strategy]
) -> None:
    key, other = f"studies.{study.name}.rates_from", study.rates_from
    if other is None:
        return
    _known(key, other, "study", named)
    if study.learning_rates != "tuned":
        raise ParamsError(f"{key}: learning_rates is {study.learning_rates!r}; only tuned rates are taken from a study")
    if other not in studies:
        return  # what is wrong with it is said there
    if not studies[other].pilots:
        raise ParamsError(f"{key}: study '{other}' does not tune its own rates; name one that does")
    rated = [name for name in study.strategies if name in strategies and not strategies[name].closed_form]
    absent = [name for name in rated if name not in studies[other].strategies]
    if absent:
        raise ParamsError(f"{key}: study '{other}' tunes no {', '.join(absent)}; leave it out or add it there")


def _folder_name(key: str, name: str) -> None:
    # Names become folders and DVC's stages, train@study-strategy: two hyphenated parts could not be told apart.
    allowed, said = (r"\w[\w-]*", ", _ and -") if key == "studies" else (r"\w+", " and _")
    if not re.fullmatch(allowed, name, re.ASCII):
        raise ParamsError(f"{key}: {_said(name)} can't name a folder; use letters, digits{said}, such as my_photos")


def _ablation(name: str, block: _Ablation, strategies: Mapping[str, _Strategy]) -> Ablation:
    key = f"ablations.{name}"
    _known(f"{key}.of", block.of, "strategy", strategies)
    if len(block.set) != 1:
        raise ParamsError(f"{key}.set: {len(block.set)} keys are changed; an ablation changes exactly one")
    ((changed, value),) = block.set.items()
    _known(f"{key}.set", changed, "key", _Strategy.model_fields)
    base = {**strategies[block.of].model_dump(), "batch_norm": strategies[block.of].resolved}
    try:
        strategy = _Strategy.model_validate({**base, changed: value}).plain(name)
    except ValidationError as error:
        raise ParamsError("; ".join(f"{key}.set: {sentence}" for sentence in _sentences(error))) from None
    if replace(strategy, name=block.of) == strategies[block.of].plain(block.of):
        raise ParamsError(f"{key}.set.{changed}: {_said(value)} is what {block.of} has already; nothing would change")
    return Ablation(block.of, strategy)


def _study(
    name: str,
    block: _Study,
    file: Mapping[str, Mapping[str, Any]],
    strategies: Mapping[str, Strategy],
    default: tuple[str, ...],
    ablations: Mapping[str, Ablation],
    mistakes: _Mistakes,
) -> Study | None:
    """A study whose block is sound by itself, or None where it does not fit the rest of the file.

    `file` has all names in it; `strategies` and `ablations` are those of them that are sound.
    """
    key, before, noted = f"studies.{name}", len(mistakes), mistakes.noted
    with noted():
        dataset = _dataset(f"{key}.dataset", block.dataset)
    for position, strategy in enumerate(block.strategies or ()):
        with noted():
            _known(f"{key}.strategies[{position}]", strategy, "strategy", file["strategies"])
    for swept in block.sweep:
        with noted():
            _known(f"{key}.sweep", swept, "strategy or ablation", (*file["strategies"], *file["ablations"]))
    for position, ablation in enumerate(block.ablations):
        with noted():
            _known(f"{key}.ablations[{position}]", ablation, "ablation", file["ablations"])
    for given, values in (
        ("per_class", block.per_class),
        ("ablations", block.ablations),
        ("strategies", block.strategies or ()),
    ):
        with noted():
            _once(f"{key}.{given}", values)
    seeds = tuple(range(min(block.seeds, 2000)) if isinstance(block.seeds, int) else block.seeds)
    with noted():
        _check_seeds(f"{key}.seeds", block.seeds, seeds)
    trained = tuple(block.strategies or default)
    plain = {**strategies, **{ablation: entry.strategy for ablation, entry in ablations.items()}}
    with noted():
        backbone, weights = _backbone(f"{key}.backbone", block.backbone)
        for used in dict.fromkeys((*trained, *block.sweep, *block.ablations)):
            with noted():
                if used in plain:
                    _check_fit(key, plain[used], backbone, block.epochs)
    for swept in block.sweep:
        if swept in plain and plain[swept].closed_form:
            mistakes.append(f"{key}.sweep: {swept} has no rate to sweep; its head is computed")
    for ablation in block.ablations:
        if ablation in ablations and ablations[ablation].of not in trained:
            mistakes.append(f"{key}.ablations: {ablation} changes {ablations[ablation].of}, which is not trained here")
    sweep = {}
    for swept, tried in block.sweep.items():
        with noted():
            sweep[swept] = _scales(f"{key}.sweep.{swept}", tried)
    with noted():
        sweep_seeds = _first(f"{key}.sweep_seeds", block.sweep_seeds, seeds)
    with noted():
        ablation_seeds = _ablation_seeds(f"{key}.ablation_seeds", block, seeds)
    with noted():
        tested = block.lr_finder_seeds
        lr_finder_seeds = _first(f"{key}.lr_finder_seeds", tested, seeds) if tested else ()
    if len(mistakes) > before:
        return None
    return Study(
        name=name,
        dataset=dataset,
        backbone=backbone,
        weights=weights,
        resolution=block.resolution,
        per_class=tuple(block.per_class),
        seeds=seeds,
        epochs=block.epochs,
        learning_rates=block.learning_rates,
        rates_from=block.rates_from,
        precision=block.precision,
        judge_by=block.judge_by,
        test_images=block.test_images,
        sweep=sweep,
        ablations=tuple(block.ablations),
        batch_size=block.batch_size,
        watched=block.watched,
        sweep_seeds=sweep_seeds,
        ablation_seeds=ablation_seeds,
        lr_finder_seeds=lr_finder_seeds,
        strategies=trained,
    )


def _check_seeds(key: str, given: int | list[int], seeds: tuple[int, ...]) -> None:
    _once(key, seeds)
    if len(seeds) < 2:
        raise ParamsError(f"{key}: {_said(given)} is fewer than 2 seeds; pairs need at least 2")
    for pilot in PILOT_SEEDS:
        if pilot in seeds:
            raise ParamsError(f"{key}: {_said(given)} holds {pilot}, a pilots' seed; choose seeds without it")


def _backbone(key: str, given: Any) -> tuple[str, str | None]:
    """The name of a backbone, and the file of the user's own weights where one is given."""
    block = given if isinstance(given, dict) else {"name": given}
    for option in block:
        _known(key, str(option), "option", ("name", "weights"))
    name, weights = block.get("name"), block.get("weights")
    if not isinstance(name, str) or not (weights is None or isinstance(weights, str)):
        raise ParamsError(
            f"{key}: {_said(given)} is not right; give a name, or {{name: resnet18, weights: path.safetensors}}"
        )
    _known(key, name, "backbone", BACKBONES)
    return name, weights


def _check_fit(key: str, strategy: Strategy, backbone: str, epochs: int) -> None:
    """Whether a strategy means anything on a backbone, and its phases fit into the epochs."""
    norm = BACKBONES[backbone]
    if norm != "batch" and strategy.weights == "pretrained" and strategy.batch_norm == "train":
        raise ParamsError(f"{key}.strategies: {strategy.name} trains BatchNorm, and {backbone} has none; leave it out")
    if norm == "none" and strategy.learn == "norms":
        raise ParamsError(
            f"{key}.strategies: {strategy.name} trains normalisation layers, and {backbone} has none; "
            "name the study's strategies without it"
        )
    if strategy.closed_form:
        return
    try:
        epochs_of_phases([phase.share for phase in strategy.phases], epochs)
    except ValueError as error:
        raise ParamsError(f"{key}.epochs: {strategy.name}: {error}") from None


def _dataset(key: str, given: Any) -> DatasetSpec:
    from pipeline.datasets import REGISTRY as DATASETS

    if isinstance(given, str):
        _known(key, given, "data set", DATASETS)
        if given == "folder":
            raise ParamsError(f"{key}: which folder? write {{folder: path, name: what to call it}}")
        return DatasetSpec(given, {})
    if not isinstance(given, dict):
        raise ParamsError(f"{key}: {_said(given)} is no data set; choose from {', '.join(DATASETS)}")
    if "folder" in given:
        options = {"path": given["folder"], **{option: value for option, value in given.items() if option != "folder"}}
        name = "folder"
    elif len(given) == 1:
        ((name, inside),) = given.items()
        _known(key, str(name), "data set", DATASETS)
        options = inside if inside is not None else {}
        if not isinstance(options, dict):
            raise ParamsError(
                f"{key}.{name}: {_said(inside)} is not right; give its options, such as {{label: defective}}"
            )
    else:
        raise ParamsError(
            f"{key}: {_said(given)} names no single data set; {_nearest(str(next(iter(given), '')), DATASETS)}"
        )
    known = DATASET_OPTIONS.get(name, frozenset())
    for option, value in options.items():
        _known(f"{key}.{option}", str(option), "option", known)
        if not isinstance(value, str):
            raise ParamsError(f"{key}.{option}: {_said(value)} is no text; put it in quotes")
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
            raise ParamsError(
                f"{key}: {_said(count)} is no number of seeds; give one, such as 5, or {{all: 5, name: 10}}"
            )
    return {name: _first(key, count, seeds) for name, count in counts.items()}


def _first(key: str, count: int | None, seeds: tuple[int, ...]) -> tuple[int, ...]:
    if count is None:
        return seeds
    if not 2 <= count <= len(seeds):
        raise ParamsError(f"{key}: {_said(count)} is not between 2 and the study's {len(seeds)} seeds")
    return seeds[:count]


def _once(key: str, values: Iterable[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ParamsError(f"{key}: {_said(value)} is given twice; keep one")
        seen.add(value)
