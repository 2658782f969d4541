"""Numbers, names and pages as text."""

from __future__ import annotations

import pytest

from analysis.markdown import (
    Section,
    Table,
    listed,
    number,
    p_value,
    page,
    plain,
    rate_text,
    seconds,
    share,
    shown,
    signed,
    with_interval,
)

NAN = float("nan")


def test_numbers_are_written_as_people_write_them() -> None:
    assert [signed(1.26), signed(-0.44), signed(0.04), signed(NAN)] == ["+1.3", "−0.4", "0.0", "–"]
    assert [rate_text(1e-4), rate_text(2.5e-3), rate_text(1.0)] == ["1e-4", "2.5e-3", "1e0"]
    assert [p_value(0.0001), p_value(0.0314), p_value(NAN)] == ["<0.001", "0.031", "–"]
    assert [seconds(0.92), seconds(21), seconds(316), seconds(1_830), seconds(9_000)] == [
        *("0.92 s", "21 s", "5.3 min", "30 min", "2.5 h")
    ]
    assert [share(1, 1), share(38, 10_000), number(NAN)] == ["100%", "0.38%", "–"]
    assert with_interval(2.4, 1.3, 3.5) == "+2.4 [+1.3, +3.5]"
    assert with_interval(2.4, NAN, NAN) == "+2.4"
    assert listed(["a", "b", "c"], "or") == "a, b or c"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("$^$", "\\$^\\$"),
        ("*x*", "\\*x\\*"),
        ("<b>", "\\<b\\>"),
        ("`a`|b", "\\`a\\`\\|b"),
        ("a\n b", "a b"),
        ("林", "林"),
    ],
)
def test_markup_in_a_name_is_escaped(name: str, text: str) -> None:
    assert shown(name) == text
    assert shown("\x1b\u202e\udcff") == r"\\x1b\\u202e\\udcff"


def test_a_page_has_one_title_and_its_contents_lead_to_its_sections() -> None:
    table = Table(("Rule", "Effect"), (("a", "+1.0"),), frozenset({1}))
    text = page("Details: x", [Section("", ("First.",)), Section("Every strategy?", (table, "Words."))], contents=True)
    assert text == (
        "# Details: x\n\n- [Every strategy?](#every-strategy)\n\nFirst.\n\n## Every strategy?\n\n"
        "| Rule | Effect |\n| --- | ---: |\n| a | +1.0 |\n\nWords.\n"
    )
    assert plain(table) == "Rule  Effect\na       +1.0"
