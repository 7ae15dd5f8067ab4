"""What differs between two runs, all of it and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.__main__ import main
from astromodal.compare.diff import diff_text, differing
from astromodal.errors import ArtifactError, ArtifactMissingError
from tests.compare.fake_runs import INPUTS, make_run, object_errors


def sections(text: str) -> dict[str, list[list[str]]]:
    """Cells of the rows below each heading."""
    found: dict[str, list[list[str]]] = {}
    for part in text.split("\n\n")[1:]:
        heading, *rows = part.splitlines()
        found[heading] = [row.split() for row in rows[1:]]
    return found


def test_all_that_differs_is_told_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    a = make_run(tmp_path, "a", score=0.5, errors=object_errors(rng))
    code = {"git": {"revision": "f00", "dirty": True}, "versions": {"python": "3.11.7", "numpy": "2.0"}}
    b = make_run(
        tmp_path,
        "b",
        seed=4,
        score=0.4,
        changes={"loss.weight_image": 0.2, "new.key": None},
        errors=object_errors(rng, shift=-0.1),
        record=code,
    )
    found = sections(diff_text(a, b))
    assert found["configuration:"] == [
        ["loss.weight_image", "0.1", "0.2"],
        ["name", '"a"', '"b"'],
        ["seed", "0", "4"],
        ["new.key", "(none)", "null"],
    ]
    assert found["inputs (fingerprints): no difference"] == []
    assert found["code:"] == [
        ["git", "revision", '"abcdef0123456789"', '"f00"'],
        ["git", "dirty", "false", "true"],
        ["torch", '"2.6.0"', "(none)"],
        ["numpy", "(none)", '"2.0"'],
    ]
    assert found["metrics:"][0] == ["val/score", "0.5", "0.4", "-0.1", "0.55", "0.45", "-0.1"]
    objects = {row[0]: row[-1] for row in found["by object, B - A (95 %):"]}
    assert objects == {"ce": "differs", "error_image": "differs", "error_scalar": "differs"}


def test_a_run_does_not_differ_from_itself(tmp_path):
    a = make_run(tmp_path, "a", errors=object_errors(np.random.default_rng(0)))
    text = diff_text(a, a)
    for part in ("configuration: no difference", "inputs (fingerprints): no difference", "code: no difference"):
        assert part in text
    rows = [row for row in sections(text)["metrics:"] if row[0].startswith("val/")]
    assert {(row[3], row[6]) for row in rows} == {("0", "0")} and text.count("no difference") == 3 + 3


def test_other_data_makes_the_metrics_incomparable(tmp_path):
    errors = object_errors(np.random.default_rng(0))
    a = make_run(tmp_path, "a", errors=errors)
    b = make_run(tmp_path, "b", inputs=INPUTS | {"sequences": "0" * 32}, errors=errors)
    text = diff_text(a, b)
    assert f'sequences  "{INPUTS["sequences"]}"  "{"0" * 32}"' in text
    assert "NOT comparable" in text and "by object" not in text


def test_runs_without_validations_are_compared_by_their_summaries(tmp_path):
    folders = []
    for name, value in (("a", 3), ("b", 5)):
        folder = make_run(tmp_path, name)
        (folder / "metrics.jsonl").unlink()
        (folder / "summary.json").write_text(f'{{"scalar": {{"rate": {value}}}, "note": "x"}}')
        folders.append(folder)
    assert ["scalar/rate", "3", "5", "2", "-", "-", "-"] in sections(diff_text(*folders))["metrics:"]


def test_killed_runs_and_lost_files_are_no_obstacle(tmp_path):
    a, b = make_run(tmp_path, "a", status="RUNNING"), make_run(tmp_path, "b", record={"git": None, "versions": 3})
    (a / "metrics.jsonl").unlink()
    text = diff_text(a, b)
    assert "(train_lm, killed)" in text and "object_errors.npz is not in both" in text and "val/" not in text


def test_what_is_no_run_is_refused(tmp_path, capsys):
    a = make_run(tmp_path, "a")
    with pytest.raises(ArtifactMissingError, match="got nothing"):
        diff_text(a, tmp_path / "nowhere")
    (a / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        diff_text(a, a)
    main(["diff", *[str(make_run(tmp_path, name)) for name in "xy"]])  # returns, which is exit code 0
    assert "configuration" in capsys.readouterr().out


def test_values_tell_types_apart_and_long_ones_are_cut():
    assert differing({"a": 1, "b": [1, 2]}, {"a": "1", "b": [1, 2]}) == [("a", "1", '"1"')]
    ((_, long, _),) = differing({"a": "x" * 500}, {})
    assert len(long) == 60
