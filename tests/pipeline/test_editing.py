"""params.yaml changed as text: the one place that is meant, and no other byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import editing
from pipeline.editing import EditingError

OURS = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")
BLOCKS = (
    "active: # these\n- a\n- b # two\n# next\nstudies:\n    a: &x\n        k: 1 # one\n    b: *x # the same\n# end\n"
)
FOLDED = "studies:\n a:\n  k: >-\n   long\n   text\n\nstrategies: {}\nactive: [a]"
WINDOWS = "active: [a]\r\nstudies:\r\n  a: {k: 1}\r\n\r\nstrategies: {}\r\n"


@pytest.mark.parametrize("text", [OURS, BLOCKS, FOLDED, WINDOWS], ids=["ours", "blocks", "folded", "windows"])
def test_all_but_the_new_study_and_the_active_list_stays_byte_for_byte(text: str) -> None:
    before = yaml.safe_load(text)
    keys = {"dataset": {"folder": "/data/my leaves", "name": "no"}, "per_class": [10, "all"], "learning_rates": 3.0}
    changed = editing.with_study(text, "leaves", "why", keys)
    after = yaml.safe_load(changed)
    assert after["studies"].pop("leaves") == keys
    assert after == before
    start = next(at for at in range(len(text) + 1) if changed[: at + 1] != text[: at + 1])
    end = start + len(changed) - len(text)
    assert changed[:start] + changed[end:] == text
    assert "leaves: # why" in changed[start:end]

    active = editing.activated(text, "leaves")
    assert yaml.safe_load(active) == {**before, "active": ["leaves"]}
    kept = [line for line in text.splitlines(True) if line in active.splitlines(True)]
    assert len(kept) >= len(text.splitlines()) - 2


TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["no", "~", "1e3", "a b", "0o7", "/a.b"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a loaded machine
@given(TEXTS | st.lists(TEXTS) | st.dictionaries(st.sampled_from("ab"), TEXTS))
def test_whatever_is_written_is_read_as_it_was(value: Any) -> None:
    assert yaml.safe_load(f"key: {editing.written(value)}") == {"key": value}


def test_studies_in_braces_are_refused() -> None:
    with pytest.raises(EditingError, match="braces"):
        editing.with_study("studies: {a: {k: 1}}\n", "b", "why", {})
