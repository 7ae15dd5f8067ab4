"""Whatever a run directory holds: a report and a runs table go on, and say which run cannot be read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from astromodal.__main__ import main
from astromodal.compare.runs_table import read_runs_table
from astromodal.dashboards.content import read_content
from astromodal.dashboards.replay import Target
from astromodal.errors import UserError
from astromodal.runs.run import mirror_options
from tests.mutations import mutations, replaced

from .fake_runs import make_run

FILES = ("run.json", "config.json", "summary.json", "metrics.jsonl")


def change(folder: Path, name: str, path: tuple, value: object) -> Path:
    file = folder / name
    file.write_text(json.dumps(replaced(json.loads(file.read_text()), path, value)))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_every_value_of_a_run_may_be_another_one(name, tmp_path):
    good, odd = make_run(tmp_path / "runs", "a", "1", seed=1), make_run(tmp_path / "runs", "b", "2", seed=2)
    file = odd / name
    lines = file.read_text().splitlines() if name.endswith("l") else [file.read_text()]
    for what, changed in mutations(json.loads(lines[-1])):
        file.write_text("\n".join([*lines[:-1], json.dumps(changed)]) + "\n")
        try:
            runs_table = read_runs_table([tmp_path / "runs"])
            assert [run.path for run in runs_table.runs][:1] == [good]
            runs_table.table()
            assert all(" " in entry.reason and "\n" not in entry.reason for entry in runs_table.skipped)
            for run in runs_table.runs[1:]:
                try:  # as a replay does, where these errors are one line
                    content = read_content(run)
                    assert mirror_options(run.record, content.config) and Target().key(content) and content.rows(0)
                except UserError as error:
                    assert "\n" not in str(error)
        except Exception as error:
            pytest.fail(f"{name} {what}: {type(error).__name__}: {error}")


ODD = {
    "a list as seed": ("run.json", ("seed",), [1], True),
    "a name that is a number": ("run.json", ("name",), 5, True),
    "an objective that is a list": ("run.json", ("objective",), ["val/score"], True),
    "inputs that are a list": ("run.json", ("inputs",), [1], True),
    "tracking that is a number": ("config.json", ("tracking",), 5, False),
    "a project with a slash": ("config.json", ("tracking", "project"), "a/b", False),
    "a number of a thousand digits": ("summary.json", ("steps",), 10**999, False),
    "escapes in a value": ("config.json", ("loss", "ce"), "\x1b]0;title\x07\x1b[2J", False),
    "a formula in a value": ("config.json", ("optimizer", "name"), "=cmd|' /C calc'!A0", False),
    "nested": ("config.json", ("loss",), json.loads('{"a":' * 200 + "1" + "}" * 200), True),
}


def test_odd_runs_do_not_end_a_report(tmp_path, capsys):
    root = tmp_path / "runs"
    for seed in (1, 2):
        make_run(root, "good", f"g{seed}", seed=seed, score=0.4)
    for k, (what, (name, path, value, _)) in enumerate(ODD.items()):
        change(make_run(root, f"odd{k}", what.replace(" ", "-"), seed=1), name, path, value)
    main(["compare", str(root), "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "configuration" in out
    for what, (*_, skipped) in ODD.items():
        assert (f"unreadable, skipped: {root}" in out and f"/{what.replace(' ', '-')}: " in out) is skipped, what
    with open(tmp_path / "out" / "runs.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell and not _is_number(cell)]
    assert "'=cmd|' /C calc'!A0" in cells and len(cells) > 100


def _is_number(text: str) -> bool:
    try:
        return bool(float(text)) or True
    except ValueError:
        return False
