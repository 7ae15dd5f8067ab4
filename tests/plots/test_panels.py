"""Points from records, panels, legends only where something is named, and files in folders that did not exist."""

import subprocess
import sys
from pathlib import Path

import pytest

from astromodal.plots import panels as plotting

SRC = str(plotting.__file__).rsplit("/astromodal/", 1)[0]


def test_points_are_taken_where_a_key_was_recorded_and_can_be_drawn():
    records = [{"epoch": 1, "a": 1.0}, {"epoch": 2}, {"epoch": 3, "a": 0.0}, {"epoch": 4, "a": None}]
    assert plotting.points(records, "a", over="epoch") == [(1, 1.0), (3, 0.0)]
    assert plotting.points(records, "a", over="epoch", positive=True) == [(1, 1.0)]
    assert plotting.points(records, None) == plotting.points(records, "b") == []


def test_what_has_no_points_is_neither_drawn_nor_named(tmp_path: Path):
    figure, (left, right) = plotting.panels_in_a_row(2, 2.0, 1.5)
    plotting.curve(left, [(1, 2.0), (2, 3.0)], label="a", color=plotting.BLUE)
    plotting.curve(right, [], label="b")
    for axis in (left, right):
        plotting.legend_and_grid(axis)
    assert left.lines[0].get_xydata().tolist() == [[1.0, 2.0], [2.0, 3.0]] and left.lines[0].get_linewidth() == 1.2
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["a"]
    assert not right.lines and right.get_legend() is None
    assert figure.get_size_inches().tolist() == [4.0, 1.5]
    path = plotting.save(figure, tmp_path / "new" / "folder" / "x.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, astromodal.plots.panels; print([m for m in sys.modules if m.startswith('matplotlib')])"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": SRC}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_plot_that_fails_is_a_warning_that_names_it(tmp_path: Path, caplog):
    @plotting.never_fatal
    def draw(path: Path) -> Path:
        plotting.save(plotting.panels_in_a_row(1, 2.0, 1.5)[0], path / "file")  # its folder is a file
        return path

    (tmp_path / "x.png").write_text("")
    assert draw(tmp_path / "x.png") is None
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.getMessage().startswith("not drawn: x.png (")
    with pytest.raises(KeyboardInterrupt):
        plotting.never_fatal(_interrupted)()


def _interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("unit", [r"$M_{\sun}$", r"\micron", "$", r"$10^{-17}$ erg"])
def test_a_unit_in_latex_is_drawn_in_any_case(tmp_path: Path, unit: str):
    figure, (axis,) = plotting.panels_in_a_row(1, 2.0, 1.5)
    axis.set(title=unit, ylabel="$x^2$", yscale="log", ylim=(1, 100))
    assert plotting.save(figure, tmp_path / "x.png").stat().st_size > 1000
    assert axis.title.get_parse_math() == ("sun" not in unit) and axis.yaxis.label.get_parse_math()
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
