"""Tables as text: widths, sides, cells without a value."""

from astromodal.files.text_table import cell, markdown, table


def test_columns_are_as_wide_as_their_widest_cell_and_figures_end_below_each_other():
    lines = table(("name", "n", "unit"), [("a", 1000.0, "K"), ("much longer", 2, "mag")]).splitlines()
    assert lines == ["name            n  unit", "a            1000     K", "much longer     2   mag"]


def test_text_columns_begin_below_each_other_and_no_line_ends_in_blanks():
    lines = table(("job", "status", "swept"), [("", "duplicate", "seed=1"), (10, "done", "")], n_left=3).splitlines()
    assert lines == ["job  status     swept", "     duplicate  seed=1", "10   done"]


def test_a_table_without_rows_is_its_header():
    assert table(("a", "b"), []) == "a  b"


def test_markdown_has_one_line_per_row_and_one_rule():
    rows = [("a", 1.23456), ("b", float("nan"))]
    assert markdown(("x", "y"), rows).splitlines() == ["| x | y |", "| --- | ---: |", "| a | 1.235 |", "| b | - |"]


def test_what_is_not_known_is_a_dash_and_integers_are_whole():
    assert [cell(v) for v in (None, float("inf"), 0.0, 12345678, True, "x")] == ["-", "-", "0", "12345678", "True", "x"]
