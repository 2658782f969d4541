"""A study's rates.json: where it lies, what it must say where nothing is tuned, and whether it still says that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.params import Params, Study
from pipeline.stages.command import RESULTS
from pipeline.stages.noted import PreparedError
from pipeline.tuning import Rates, entry, inherited

Content = dict[str, dict[str, dict[str, Any]]]


def place(study: str) -> Path:
    """Where the chosen rates of a study lie."""
    return RESULTS / study / "rates.json"


def rated(loaded: Params, study: Study) -> list[str]:
    """The strategies that have a rate."""
    return [name for name in study.strategies if not loaded.strategies[name].closed_form]


def given(loaded: Params, study: Study) -> Content:
    """Rates that nothing has to be trained for: the textbook's, one scale for all, or another study's.

    Raises PreparedError where the other study has not tuned them.
    """
    names, other = rated(loaded, study), study.rates_from
    if other is None:
        scale = 1.0 if isinstance(study.learning_rates, str) else study.learning_rates
        return {str(size): {name: entry(scale, {}) for name in names} for size in study.per_class}
    content = _content(place(other))
    untuned = [name for name in names if not all(of.get(name, {}).get("tried") for of in content.values())]
    if not content or untuned:
        raise PreparedError(
            f"studies.{study.name}.rates_from: {place(other)} has no tuned rate of {', '.join(untuned or names)}; "
            f"run study '{other}' first (active: [{other}])"
        )
    return inherited(Rates(content), study.per_class, names)


def read(loaded: Params, study: Study) -> Rates:
    """What stage `tune` chose. Raises PreparedError where that was for other parameters, or it has not run."""
    content = _content(place(study.name))
    stale = not study.pilots and content != given(loaded, study)
    absent = [
        f"{name} at size {size}"
        for size in study.per_class
        for name in rated(loaded, study)
        if name not in content.get(str(size), {})
    ]
    if stale or absent:
        problem = f"has no rate of {', '.join(absent)}" if absent else "holds other rates than params.yaml asks for"
        raise PreparedError(
            f"{place(study.name)} {problem}; `dvc repro` makes it anew, "
            f"or `python -m pipeline.stages.tune {study.name}` does"
        )
    return Rates(content, study.learning_rates if isinstance(study.learning_rates, float) else 1.0)


def _content(target: Path) -> Content:
    """What a file says; nothing where there is none. Raises PreparedError where it is no JSON."""
    try:
        content: Content = json.loads(target.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise PreparedError(f"{target} is no JSON ({error}); delete it, and `dvc repro` makes it anew") from None
    return content
