"""Figures that anybody can read, of any names, the same every time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.paired import BATCH_NORM_TRAIN, DEFAULT_ORDER
from analysis.style import Intervals, drawn, looks, save, theme


def test_the_nine_default_strategies_look_the_same_in_every_report_and_unlike_each_other() -> None:
    found = looks(DEFAULT_ORDER)
    assert found == {name: looks([name])[name] for name in DEFAULT_ORDER}
    assert len({colour for colour, _ in found.values()}) == len({marker for _, marker in found.values()}) == 9
    twin = looks(["fine_tune" + BATCH_NORM_TRAIN])["fine_tune" + BATCH_NORM_TRAIN]
    assert twin[0] == found["fine_tune"][0]
    assert twin[1] != found["fine_tune"][1]


def table(names: list[str]) -> pd.DataFrame:
    rows = [{"per_class": size, "name": name} for size in (10, 100) for name in names]
    return pd.DataFrame(rows).assign(
        value=[50.0 + i for i in range(len(rows))], low=48.0, high=[55.0 + i for i in range(len(rows))]
    )


@pytest.mark.parametrize("name", ["$^$", "*x*", "<b>", "`a`|b", "林木", "a\nb\x1b[31m", "عربي", "\u202eevil"])
def test_every_name_is_drawn_on_one_line_without_a_warning(tmp_path: Path, name: str) -> None:
    assert "\n" not in drawn(name)
    assert drawn("a\udcff") == r"a\udcff"
    with theme():
        save(Intervals(table([name, "b"]), "points", [name, "b"], zero=True).draw(), tmp_path / "figure")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_the_same_table_gives_the_same_bytes_without_a_date(tmp_path: Path) -> None:
    for base in ("one", "two"):
        with theme():
            save(Intervals(table(["a", "b"]), "points", ["a", "b"]).draw(), tmp_path / base)
    for ending in ("png", "svg"):
        content = (tmp_path / f"one.{ending}").read_bytes()
        assert content == (tmp_path / f"two.{ending}").read_bytes()
        assert b"matplotlib.org" not in content


def test_rows_without_an_interval_and_hollow_ones_are_drawn(tmp_path: Path) -> None:
    data = table(["a", "b"]).assign(low=float("nan"), high=float("nan"))
    told = pd.Series([True, False, True, False])
    with theme():
        figure = Intervals(data, "points", ["a", "b"], filled=told, shaded={10: ["a"]}, ticks={"a": 51.0}).draw()
        save(figure, tmp_path / "figure")
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["10 images a class", "100 images a class"]


def test_a_value_beyond_the_panel_stands_clear_of_the_line_at_zero() -> None:
    names = ["a", "b", "c"]
    data = pd.DataFrame({"name": names, "value": [-90.0, 1.0, 2.0], "low": 0.5, "high": 2.5, "per_class": 10})
    with theme():
        panel = Intervals(data, "points", names, zero=True, shaded={10: ["a"]}).draw().axes[0]
    (beyond,), (shade,) = panel.texts, panel.patches
    assert beyond.get_text() == "◂ −90.0"
    box = beyond.get_bbox_patch()
    assert box is not None
    assert box.get_facecolor() == shade.get_facecolor()
    assert beyond.get_zorder() > min(line.get_zorder() for line in panel.lines)
