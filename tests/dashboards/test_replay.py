"""What a replay sends is what the run itself would have sent: once, and only what is new."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import types
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from astromodal.__main__ import main
from astromodal.core import FileLock, RunContext, read_json, read_jsonl
from astromodal.dashboards.marker import NAME
from tests.compare.fake_runs import make_run, merged
from tests.offline_runs import OfflineRun, read_offline


def replayed(run: Path) -> list[OfflineRun]:
    """Offline records of replays, oldest first."""
    return [read_offline(folder) for folder in sorted((run / "replay" / "wandb").glob("offline-run-*"))]


def offline(*arguments: object, capsys) -> list[str]:
    """Lines that ``replay --offline`` prints."""
    main(["wandb", "replay", *map(str, arguments), "--offline"])
    return capsys.readouterr().out.splitlines()


def refused(*arguments: object, capsys) -> tuple[list[str], str]:
    """Lines and the one error of a command that ends with exit code 1."""
    with pytest.raises(SystemExit) as stop:
        main(["wandb", *map(str, arguments)])
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert stop.value.code == 1 and len(errors) == 1 and errors[0].startswith("error: ")
    return captured.out.splitlines(), errors[0]


def draw(run: Path, name: str, value: float = 1.0) -> None:
    (run / "plots").mkdir(exist_ok=True)
    plt.imsave(run / "plots" / f"{name}.png", np.full((4, 4), value), vmin=0, vmax=2)


def same(a: object, b: object) -> bool:
    """Equal, where NaN equals NaN and ``null``."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    missing = [value is None or value != value or value == "NaN" for value in (a, b)]
    return all(missing) or a == b


# ------------------------------------------------------------------------------------- what is sent


def test_every_record_the_summary_and_the_configuration_arrive(tmp_path, capsys):
    run = make_run(tmp_path, "mine", "r1", seed=3, changes={"tracking.tags": ["first"], "tracking.notes": "a note"})
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "time": 40.0, "val/score": null, "train/loss": 1e-07}\n')
    lines = offline(tmp_path, capsys=capsys)
    (sent,) = replayed(run)
    wanted = [{k: v for k, v in line.items() if k != "time"} for line in read_jsonl(run / "metrics.jsonl")]
    assert len(wanted) == 7 and same(sent.metrics, wanted)
    assert math.isnan(sent.metrics[-1]["val/score"]) and sent.history[-1]["_timestamp"] == 40.0
    assert [row["_step"] for row in sent.history] == list(range(7))
    assert same(sent.config, read_json(run / "config.json")) and sent.config["loss"]["weight_image"] == 0.1
    assert sent.summary["model/score"] == 0.5 and sent.summary["baselines/marginal/score"] == 1.0
    assert (sent.run.run_id, sent.run.project, sent.run.job_type) == ("train_lm-r1", "astromodal", "train_lm")
    assert list(sent.run.tags) == ["train_lm", "first"] and sent.run.notes == "a note" and sent.run.run_group == ""
    assert sent.run.display_name == "mine-r1" and sent.exit_code == 0
    assert lines[0].startswith(f"sent: {run}: train_lm-r1, 7 records, wandb sync {run}/replay/wandb/offline-run-")
    assert lines[1] == "1 sent"


def test_a_replay_is_what_the_run_itself_would_have_sent(tmp_path, capsys, monkeypatch):
    config = {
        "stage": "train_lm",
        "name": "n",
        "run_id": "r",
        "seed": 1,
        "data": {"name": "sky"},
        "tracking": {"wandb": "offline", "tags": ["x"], "project": "p", "entity": "e"},
    }
    folder = tmp_path / "live"
    with RunContext.open(config | {"run_dir": str(folder)}, "train_lm") as run:
        run.add_input("tokens", "0" * 32)
        run.add_output("model", "1" * 32)
        run.tracker.log(1, {"train/loss": 2.5, "train/nan": math.nan})
        run.tracker.log(2, {"train/loss": 0.5})
        draw(folder, "curves")
        run.tracker.image("curves", folder / "plots" / "curves.png", 2)
        run.tracker.summary({"steps": 2, "model/score": 0.25, "nothing": math.nan})
    (live,) = (read_offline(p) for p in (folder / "wandb").glob("offline-run-*"))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb"))
    offline(copy, capsys=capsys)
    (sent,) = replayed(copy)
    for part in ("run_id", "project", "entity", "run_group", "job_type", "display_name", "notes"):
        assert getattr(sent.run, part) == getattr(live.run, part), part
    assert list(sent.run.tags) == list(live.run.tags) and sent.config == live.config
    of_w_and_b = ("curves/path", "_wandb/runtime")  # the name of its own copy, its clock
    shown = [[{k: v for k, v in row.items() if k not in of_w_and_b} for row in run.metrics] for run in (sent, live)]
    assert same(*shown) and len(sent.metrics) == 3
    assert sent.metrics[2]["curves/sha256"] and sent.metrics[2]["step"] == 2
    own = [
        {k: v for k, v in run.summary.items() if k not in of_w_and_b and not k.startswith("_")} for run in (sent, live)
    ]
    assert same(own[0], own[1]) and own[0]["model/score"] == 0.25 and sent.exit_code == live.exit_code == 0
    assert [(a.name, a.digest, a.use_after_commit) for a in sent.artifacts] == [
        (a.name, a.digest, a.use_after_commit) for a in live.artifacts
    ] and len(sent.artifacts) == 2


def test_jobs_of_a_sweep_are_one_group_and_runs_of_an_agent_keep_their_sweep(tmp_path, capsys):
    jobs = [make_run(tmp_path, "a", "s1", job=str(k), seed=k) for k in (0, 1)]
    agent = make_run(tmp_path, "b", "abc123", record={"sweep_id": "sweep9"})
    offline(tmp_path, capsys=capsys)
    (first,), (second,), (third,) = (replayed(run) for run in (*jobs, agent))
    assert first.run.run_group == second.run.run_group == "s1"
    assert (first.run.run_id, second.run.run_id) == ("train_lm-s1-0", "train_lm-s1-1")
    assert (third.run.run_id, third.run.sweep_id, third.run.run_group) == ("abc123", "sweep9", "sweep9")


def test_pictures_come_along_and_again_only_if_they_changed(tmp_path, capsys):
    run = make_run(tmp_path, "a")
    draw(run, "curves")
    draw(run, "scalars")
    offline(run, capsys=capsys)
    draw(run, "scalars", 2.0)
    assert offline(run, capsys=capsys)[-1] == "1 continued"
    first, second = replayed(run)
    names = [[key for row in part.metrics for key in row if key.endswith("sha256")] for part in (first, second)]
    assert names == [["curves/sha256", "scalars/sha256"], ["scalars/sha256"]]
    assert first.metrics[-1]["step"] == 30 and [row["_step"] for row in second.history] == [8]


def test_a_failed_run_is_shown_as_failed(tmp_path, capsys):
    run = make_run(tmp_path, "a", status="FAILED")
    offline(run, capsys=capsys)
    assert replayed(run)[0].exit_code == 1


def test_other_places_are_places_of_their_own(tmp_path, capsys):
    run = make_run(tmp_path, "a")
    offline(run, capsys=capsys)
    assert offline(run, "--project", "other", "--entity", "team", capsys=capsys)[-1] == "1 sent"
    assert [(r.run.entity, r.run.project) for r in replayed(run)] == [("", "astromodal"), ("team", "other")]
    assert offline(run, "--project", "other", "--entity", "team", capsys=capsys)[-1] == "1 already there"


# -------------------------------------------------------------------------------- no duplicates


def test_a_second_replay_sends_nothing_and_a_run_that_grew_is_continued(tmp_path, capsys):
    run = make_run(tmp_path, "a", "r1", status="FAILED")
    offline(tmp_path, capsys=capsys)
    assert offline(tmp_path, capsys=capsys)[-1] == "1 already there"
    assert len(replayed(run)) == 1
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "time": 50.0, "val/score": 0.25}\n{"step": 50, "ti')
    (run / "run.json").write_text(json.dumps(read_json(run / "run.json") | {"status": "DONE"}))
    line, total = offline(tmp_path, capsys=capsys)
    assert "continued" in line and "1 records" in line and "last line is unfinished" in line and total == "1 continued"
    first, second = replayed(run)
    assert first.run.run_id == second.run.run_id and second.run.resume
    assert second.metrics == [{"step": 40, "val/score": 0.25}] and second.history[0]["_step"] == 6
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert offline(tmp_path, capsys=capsys)[-1] == "1 already there"


def test_again_makes_a_second_run_of_the_whole(tmp_path, capsys):
    run = make_run(tmp_path, "a", "r1")
    for _ in range(3):
        offline(run, "--again", capsys=capsys)
    sent = replayed(run)
    assert sorted(r.run.run_id for r in sent) == ["train_lm-r1", "train_lm-r1-2", "train_lm-r1-3"]
    assert [len(r.history) for r in sent] == [6, 6, 6]


def test_a_run_that_went_back_is_not_mixed_with_what_was_sent(tmp_path, capsys):
    run = make_run(tmp_path, "a")
    offline(run, capsys=capsys)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:3]) + '{"step": 40, "val/score": 9.0}\n' * 5)
    out, error = refused("replay", run, "--offline", capsys=capsys)
    assert "--again" in out[0] and "1 of 1 runs" in error and len(replayed(run)) == 1


@pytest.mark.parametrize(
    ("folder", "says"),
    [("run-20260101_000000-x", "online"), ("", "online"), ("offline-run-20260101_000000-x", "synced")],
)
def test_what_the_run_itself_has_sent_is_not_sent_again(tmp_path, capsys, monkeypatch, folder, says):
    run = make_run(
        tmp_path, "a", "r1", record={"wandb_id": "x"} if folder else {"wandb_id": "x", "wandb_mode": "online"}
    )
    if folder:
        (run / "wandb" / folder).mkdir(parents=True)
        (run / "wandb" / folder / "run-x.wandb.synced").touch()
    (line, _) = offline(run, capsys=capsys)
    assert line.startswith("already there") and says in line and not (run / "replay").exists()
    offline(run, "--project", "other", capsys=capsys)
    offline(run, "--again", capsys=capsys)
    assert [r.run.run_id for r in replayed(run)] in (["x", "x-2"], ["x-2", "x"])


def test_a_run_whose_own_mirror_broke_off_says_so(tmp_path, capsys):
    make_run(tmp_path, "a", record={"wandb_mode": "online", "wandb_broke_off": True})
    line, total = offline(tmp_path, capsys=capsys)
    assert "broke off" in line and "--again" in line and total == "1 left out"


def test_a_record_of_the_runs_own_is_left_to_wandb_sync(tmp_path, capsys):
    run = make_run(tmp_path, "a")
    (run / "wandb" / "offline-run-20260101_000000-x").mkdir(parents=True)
    (line, _) = offline(run, capsys=capsys)
    assert line.startswith("already there") and line.endswith("wandb/offline-run-20260101_000000-x")


def test_a_replay_that_was_killed_leaves_no_second_record(tmp_path, capsys):
    run = make_run(tmp_path, "a", "r1")
    offline(run, capsys=capsys)
    (old,) = (run / "replay" / "wandb").glob("offline-run-*")
    marker = read_json(run / NAME)
    marker["sent"][0] |= {"lines": 0, "bytes": 0, "next_step": 0, "status": "", "folders": [], "digest": ""}
    (run / NAME).write_text(json.dumps(marker))
    old.rename(old.with_name("offline-run-20000101_000000-train_lm-r1"))
    assert offline(run, capsys=capsys)[-1] == "1 sent"
    (sent,) = replayed(run)
    assert len(sent.history) == 6


# -------------------------------------------------------------------------------- what cannot be sent


def test_running_runs_are_left_out_unless_asked_for_and_killed_ones_are_sent(tmp_path, capsys):
    killed, running = (make_run(tmp_path, name, status="RUNNING") for name in ("a", "b"))
    with FileLock(running / ".run"):
        lines = offline(tmp_path, capsys=capsys)
        assert lines[-1] == "1 sent, 1 left out" and "--running" in lines[1]
        assert offline(running, "--running", capsys=capsys)[-1] == "1 sent"
    assert replayed(killed)[0].exit_code == 1 and len(replayed(running)[0].history) == 6


def test_damaged_runs_are_listed_and_the_others_sent(tmp_path, capsys):
    names = ("good", "json", "metrics", "config", "none", "marker")
    runs = {name: make_run(tmp_path, name) for name in names}
    (runs["json"] / "run.json").write_text('{"stage": ')
    (runs["metrics"] / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    (runs["config"] / "config.json").write_text("[]")
    (runs["none"] / "run.json").unlink()
    (runs["marker"] / NAME).write_text('{"sent": [1]}')
    out, error = refused("replay", tmp_path, "--offline", capsys=capsys)
    failed = [line for line in out if line.startswith("failed: ")]
    assert len(failed) == 5 and all(str(runs[name]) in "".join(failed) for name in names[1:])
    assert out[-1] == "1 sent, 5 failed" and "5 of 6 runs" in error and len(replayed(runs["good"])[0].history) == 6


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "run directories" in refused("replay", tmp_path / "empty", "--offline", capsys=capsys)[1]
    assert "got nothing" in refused("replay", tmp_path / "none", "--offline", capsys=capsys)[1]
    assert "--help" in refused("replay", capsys=capsys)[1]
    assert "--help" in refused("repaly", "x", capsys=capsys)[1]
    make_run(tmp_path, "a")
    assert "wandb login" in refused("replay", tmp_path, capsys=capsys)[1]
    with FileLock(tmp_path / "a" / "20260101-000000-000" / NAME):
        assert "no other process" in refused("replay", tmp_path, "--offline", capsys=capsys)[0][0]


@pytest.mark.parametrize("module", ["astromodal", "src.astromodal"])
def test_help_imports_nothing_heavy_from_a_checkout_and_installed(repo, module):
    code = (
        f"import sys, runpy; sys.argv = ['x', 'wandb', '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print({'torch', 'wandb', 'matplotlib', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repo,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(repo / "src"), "PATH": ""},
    )
    assert done.stdout.rstrip().endswith("set()") and "replay" in done.stdout


# ------------------------------------------------------------------------- online, with a dashboard of our own


class Dashboard:
    """Takes the place of ``wandb``: a server that keeps runs, drops what is behind its step, and may fail."""

    def __init__(self) -> None:
        self.runs: dict[str, dict] = {}
        self.fails_at: int | None = None
        self.down = False
        self.opened: list[dict] = []

    def module(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(init=self.init, Settings=lambda **k: k, Artifact=Artifact, Image=lambda p: p)

    def init(self, **options):
        self.opened.append(options)
        if self.down:
            raise OSError("no route\nto host")
        known = options["id"] in self.runs
        if known and options["resume"] == "never":
            raise ValueError(f"Run ({options['id']}) already exists, but your `resume` setting does not allow it")
        state = self.runs.setdefault(options["id"], {"rows": {}, "summary": {}, "code": None, "used": [], "made": []})
        return DashboardRun(self, state)


class Artifact:
    def __init__(self, name, type, metadata):
        self.name = name

    def add_reference(self, uri, name, checksum):
        self.uri = uri


class DashboardRun:
    offline = False

    def __init__(self, server: Dashboard, state: dict) -> None:
        self.server, self.state, self.summary, self.dir = server, state, state["summary"], "/x/y"

    @property
    def step(self) -> int:
        return max(self.state["rows"], default=-1) + 1

    def define_metric(self, *args, **kwargs):
        pass

    def log(self, row, step):
        if self.server.fails_at == step:
            raise RuntimeError("quota\nexceeded")
        if step >= self.step:
            self.state["rows"][step] = row

    def use_artifact(self, artifact, aliases):
        self.state["used"].append(artifact.name)

    def log_artifact(self, artifact, aliases):
        self.state["made"].append(artifact.name)

    def finish(self, exit_code):
        self.state["code"] = exit_code


@pytest.fixture
def server(monkeypatch) -> Dashboard:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    made = Dashboard()
    monkeypatch.setitem(sys.modules, "wandb", made.module())
    return made


def test_online_the_run_gets_the_id_it_would_have_had(tmp_path, server, capsys):
    make_run(tmp_path, "a", "r1", job="3", record={"outputs": {"model": "1" * 32}})
    main(["wandb", "replay", str(tmp_path)])
    main(["wandb", "replay", str(tmp_path)])
    (state,) = server.runs.values()
    assert list(server.runs) == ["train_lm-r1-3"] and len(state["rows"]) == 6 and state["code"] == 0
    assert server.opened[0]["mode"] == "online" and server.opened[0]["group"] == "r1" and len(server.opened) == 1
    assert state["used"] == ["synthetic-scalar_tokenizer"] and state["made"] == ["synthetic-model"]
    assert capsys.readouterr().out.splitlines()[-1] == "1 already there"


def test_a_replay_that_broke_off_goes_on_without_doubling_a_record(tmp_path, server, capsys):
    make_run(tmp_path, "a", "r1")
    server.fails_at = 3
    out, _ = refused("replay", tmp_path, capsys=capsys)
    assert "RuntimeError: quota exceeded" in out[0] and server.runs["train_lm-r1"]["code"] == 1
    server.fails_at = None
    main(["wandb", "replay", str(tmp_path)])
    state = server.runs["train_lm-r1"]
    assert sorted(state["rows"]) == list(range(6)) and state["code"] == 0 and len(server.runs) == 1


def test_a_run_that_is_there_from_elsewhere_is_not_written_to(tmp_path, server, capsys):
    run = make_run(tmp_path, "a", "r1")
    main(["wandb", "replay", str(run)])
    (run / NAME).unlink()
    server.runs["train_lm-r1"]["rows"][2]["val/score"] = "theirs"
    capsys.readouterr()
    out, _ = refused("replay", run, capsys=capsys)
    assert "from elsewhere" in out[0] and server.runs["train_lm-r1"]["rows"][2]["val/score"] == "theirs"
    assert server.runs["train_lm-r1"]["code"] == 0 and read_json(run / NAME)["sent"] == []
    main(["wandb", "replay", str(run), "--again"])
    assert list(server.runs) == ["train_lm-r1", "train_lm-r1-2"] and len(server.runs["train_lm-r1-2"]["rows"]) == 6


def test_without_network_the_first_failure_ends_it(tmp_path, server, capsys):
    for name in "abc":
        make_run(tmp_path, name)
    server.down = True
    out, error = refused("replay", tmp_path, capsys=capsys)
    assert len(server.opened) == 1 and "nothing more was tried" in out[0] and "1 of 3 runs" in error


def test_configurations_without_newer_keys_are_sent_too(tmp_path, server):
    run = make_run(tmp_path, "a", "r1")
    config = merged(read_json(run / "config.json"), {})
    del config["tracking"]
    (run / "config.json").write_text(json.dumps(config))
    main(["wandb", "replay", str(run)])
    assert server.opened[0]["project"] == "astromodal" and len(server.runs["train_lm-r1"]["rows"]) == 6
