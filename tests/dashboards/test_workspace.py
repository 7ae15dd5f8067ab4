"""The saved view has the comparisons of the report page; nothing here needs network."""

from __future__ import annotations

import json
import sys

import pytest

from astromodal.__main__ import main
from astromodal.dashboards import workspace
from tests.compare.fake_runs import make_run

KEYS = ("loss.weight_image", "loss.sample_k", "optimizer.learning_rate")


@pytest.fixture
def package():
    return pytest.importorskip("wandb_workspaces", reason="pip install wandb-workspaces")


def refused(*arguments: str, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["wandb", "workspace", "--entity", "e", *arguments])
    (error,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and error.startswith("error: ")
    return error


def printed(*arguments: str, capsys) -> dict:
    main(["wandb", "workspace", "--entity", "e", "--print", *arguments])
    return json.loads(capsys.readouterr().out)


def panels(spec: dict) -> dict[str, list[dict]]:
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections if section["panels"]}


def test_the_view_has_every_comparison(package, capsys):
    shown = panels(printed("--project", "p", "--keys", ",".join(KEYS), capsys=capsys))
    coordinates, importance = shown["Swept keys"]
    assert coordinates["viewType"] == "Parallel Coordinates Plot"
    assert [column["accessor"] for column in coordinates["config"]["columns"]] == [
        "config:loss.value.weight_image",
        "config:loss.value.sample_k",
        "config:optimizer.value.learning_rate",
        "summary:model/score",
    ]
    assert importance["viewType"] == "Parameter Importance" and importance["config"]["targetKey"] == "model/score"
    trade_off = [(p["config"]["xAxis"], p["config"]["yAxis"]) for p in shown["Cross-entropy against reconstruction"]]
    assert trade_off == [("summary:model/ce", f"summary:model/error_{m}") for m in ("image", "scalar", "spectrum")]
    curves = [(p["viewType"], p["config"]["xAxis"], p["config"]["metrics"]) for p in shown["Curves"]]
    assert curves[0] == ("Run History Line Plot", "step", ["val/score"]) and {x for _, x, _ in curves} == {"step"}
    assert [m for _, _, (m,) in curves][1:5] == ["val/ce", "val/error_image", "val/error_scalar", "val/error_spectrum"]
    cost = [(p["config"]["xAxis"], p["config"]["yAxis"]) for p in shown["sample_k and cost"]]
    assert cost[0] == ("config:loss.value.sample_k", "summary:model/score")
    assert ("config:loss.value.sample_k", "summary:perf/step_ms") in cost


def test_another_metric_is_followed_everywhere(package, capsys):
    shown = panels(printed("--metric", "val/ce", capsys=capsys))
    assert shown["Swept keys"][1]["config"]["targetKey"] == "model/ce"
    assert shown["Curves"][0]["config"]["metrics"] == ["val/ce"] and len(shown["Curves"]) == 5


def test_the_keys_are_those_in_which_runs_differ(package, tmp_path, capsys):
    for seed in (0, 1):
        for k in (16, 64):
            make_run(tmp_path, f"k{k}", f"r{seed}", seed=seed, changes={"loss.sample_k": k})
    columns = panels(printed("--runs", str(tmp_path), capsys=capsys))["Swept keys"][0]["config"]["columns"]
    assert [c["accessor"] for c in columns] == [
        "config:loss.value.sample_k",
        "config:seed.value",
        "summary:model/score",
    ]
    error = refused("--print", "--runs", str(tmp_path / "k16" / "r0"), capsys=capsys)
    assert "finished runs that differ, got 1 runs" in error


def test_the_view_is_written_without_account(package, tmp_path, capsys):
    out = tmp_path / "view.json"
    main(["wandb", "workspace", "--entity", "e", "--out", str(out)])
    assert set(panels(json.loads(out.read_text()))) == {
        "Swept keys",
        "Cross-entropy against reconstruction",
        "Curves",
        "sample_k and cost",
    }
    assert capsys.readouterr().out == ""
    assert "wandb login" in refused(capsys=capsys)


def test_what_is_saved_is_what_is_printed(package, monkeypatch, capsys):
    from wandb_workspaces.workspaces import internal

    saved = []

    def save(view):
        saved.append(view)
        return {"upsertView": {"view": {"name": "nw-abc", "id": "1"}}}

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(internal, "upsert_view2", save)
    view = workspace.build("e", "p", "mine", KEYS, "val/score")
    assert json.loads(workspace.spec(view)) == json.loads(
        view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    )
    with monkeypatch.context() as patch:
        patch.setattr(type(view), "url", property(lambda self: f"https://wandb.ai/e/p?nw={self._internal_name}"))
        main(["wandb", "workspace", "--entity", "e", "--project", "p", "--name", "mine"])
    assert capsys.readouterr().out.splitlines()[-1] == "https://wandb.ai/e/p?nw=nw-abc"
    assert (saved[0].entity, saved[0].project, saved[0].display_name) == ("e", "p", "mine")


def test_weights_and_biases_refusing_is_one_line(package, monkeypatch, capsys):
    from wandb_workspaces.workspaces import internal

    def refuse(view):
        raise RuntimeError("permission\ndenied")

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(internal, "upsert_view2", refuse)
    assert "RuntimeError: permission denied" in refused(capsys=capsys)


def test_keys_that_do_not_exist_are_refused(package, capsys):
    assert "loss.weight_imag" in refused("--print", "--keys", "loss.weight_imag,seed", capsys=capsys)


def test_without_the_package_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert "pip install wandb-workspaces" in refused("--print", capsys=capsys)
