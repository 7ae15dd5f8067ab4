"""One odd run does not end a replay: it is listed with what is wrong, and the others are sent."""

from __future__ import annotations

import json

from tests.compare.fake_runs import make_run
from tests.dashboards.test_replay import refused, replayed

ODD = {
    "a-list-as-seed": ("run.json", {"seed": [1]}, "an integer or null for seed"),
    "inputs-of-numbers": ("run.json", {"inputs": 3}, "an object or null for inputs"),
    "tracking-is-a-number": ("config.json", {"tracking": 5}, "the section tracking"),
    "a-project-with-a-slash": ("config.json", {"tracking": {"project": "a/b"}}, "tracking.project without any of"),
    "tags-of-numbers": ("config.json", {"tracking": {"tags": [1]}}, "a list of texts for tracking.tags"),
    "an-escape": ("config.json", {"tracking": {"project": "a\x1b[2J"}}, "tracking.project without any of"),
}


def test_the_others_are_sent(tmp_path, capsys):
    for what, (name, changes, _) in ODD.items():
        file = make_run(tmp_path, what, "r") / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    good = make_run(tmp_path, "zz-good", "r")
    lines, error = refused("replay", tmp_path, "--offline", capsys=capsys)
    for what, (*_, reason) in ODD.items():
        (line,) = [line for line in lines if f"/{what}/r: " in line]
        assert line.startswith("failed: ") and reason in line and "\x1b" not in line, line
    assert len(replayed(good)) == 1 and lines[-1] == "1 sent, 6 failed" and "6 of 7 runs" in error
