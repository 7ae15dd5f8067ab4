"""The command and its page: what it prints and writes, what it leaves alone, and that the page is safe and complete."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from astromodal.__main__ import main
from astromodal.commands.compare import output_folder
from astromodal.compare.cohorts import cohorts
from astromodal.compare.page.live_page import _axis
from astromodal.compare.rundir import OBJECT_ERRORS
from astromodal.compare.runs_table import read_runs_table
from astromodal.plots.svg import clean
from tests.compare.fake_runs import INPUTS, make_run, object_errors, sweep
from tests.pipeline.conftest import contents

needs_plotly = pytest.mark.skipif(find_spec("plotly") is None, reason="no plotly")
EVIL = "$a_b$ <script>alert(\"x\")</script> & 'q' <img src=x onerror=1>"
FIGURES = {
    "Differences",
    "Cross-entropy against reconstruction",
    "Swept keys",
    "Importance",
    "sample_k",
    "Gradient shares",
    "Curves",
}


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep, runs with seeds and object errors on other tokens, a name full of markup, and a damaged directory."""
    folder = tmp_path_factory.mktemp("report")
    runs = folder / "runs"
    sweep(runs, seeds=1)
    for seed in range(3):
        for name, shift in (("plain", 0.0), (EVIL, -0.1)):
            rng = np.random.default_rng(seed)
            make_run(
                runs,
                name.replace("/", "_"),
                f"s{seed}",
                seed=seed,
                score=0.6 + shift + rng.normal(0, 0.005),
                errors=object_errors(rng, shift=shift),
                inputs=INPUTS | {"sequences": "f" * 32},
                changes={"loss.ce": name, "name": name},
                record={"name": name},
            )
    make_run(runs, EVIL.replace("/", "_") + "2", status="RUNNING", record={"name": EVIL})
    (make_run(runs, "broken") / "run.json").write_text(f'{{"{EVIL}')
    before = contents(runs)
    main(["compare", str(runs), "--out", str(folder / "out")])
    assert contents(runs) == before  # run directories are only read
    return folder / "out"


def test_all_that_was_asked_for_is_written(written):
    assert sorted(p.name for p in written.iterdir()) == ["report.html", "runs.csv", "runs.parquet"]


def test_the_page_has_every_figure_and_every_group(written):
    page = Page((written / "report.html").read_text())
    titles = [page.text[i] for i in range(len(page.text)) if page.text[i] in FIGURES]
    assert set(titles) == FIGURES and titles.count("Differences") == 2  # one per group of comparable runs
    assert sum(tag == "svg" for tag, _ in page.tags) >= 9
    text = " ".join(page.text)
    assert "2 groups that may not be compared" in text and "Directories that cannot be used" in text


def test_no_text_becomes_markup(written):
    page = Page((written / "report.html").read_text())
    assert not {tag for tag, _ in page.tags} & {"img", "iframe", "object", "embed", "foreignobject", "base"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert EVIL in page.text  # shown as it is, in a table
    assert any(text.startswith("#1 $a_b$ <script>") for text in page.text)  # in a drawing, cut off


@needs_plotly
def test_only_the_pages_own_scripts_are_executed(written):
    """By its policy, whose hashes a browser compares; the block of data is none of them and cannot be left."""
    raw = (written / "report.html").read_text()
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", raw, re.DOTALL)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="runs"', "", ""]
    (_, values), *executed = scripts
    found = json.loads(values)
    assert not set("<>&") & set(values) and EVIL in [group["name"] for c in found for group in c["groups"]]
    (allowed,) = [d["content"] for tag, d in Page(raw).tags if d.get("http-equiv") == "Content-Security-Policy"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for _, text in executed]
    assert re.findall(r"'sha256-([^']*)'", allowed) == hashes and "unsafe-eval" not in allowed
    assert "default-src 'none'" in allowed and "script-src 'sha256-" in allowed and "http" not in allowed


@needs_plotly
def test_the_live_figures_say_what_the_drawings_show(written):
    raw = (written / "report.html").read_text()
    first, second = json.loads(re.search(r'id="runs">(.*?)</script>', raw, re.DOTALL)[1])
    assert set(first["figures"]) == {"c1d", "c1i", "c1p", "c1x", "c1k", "c1g", "c1c"} and "c2d" in second["figures"]
    assert set(first["figures"]) <= {d.get("id") for _, d in Page(raw).tags}
    sampled = first["axes"][[axis["label"] for axis in first["axes"]].index("loss.sample_k")]
    assert sampled["kind"] == "choice" and sampled["values"] == ["16", "256", "null"]
    for trace in first["figures"]["c1c"][0]["data"]:  # a line per run, each point with its configuration and run
        ((group, number),) = {tuple(mark) for mark in trace["marks"]}
        run = first["runs"][number]
        assert run["group"] == group and f"seed {run['seed']}" in trace["text"][0]
        assert f"{min(trace['y']):.5g}" == run["value"] and len(trace["x"]) == len(trace["text"]) == 3
    (bars,) = first["figures"]["c1g"]
    assert [row["group"] for row in bars["rows"]] == list(range(18)) and bars["rows"][0]["label"].startswith("#1 ")


@needs_plotly
def test_a_click_leads_to_the_runs_own_plots(tmp_path):
    runs = tmp_path / "runs"
    for name in ("a", "<b> x"):
        folder = make_run(runs, name, changes={"loss.ce": name}, record={"name": name})
    (folder / "plots").mkdir()
    (folder / "plots" / "loss #1.png").write_bytes(b"")
    main(["compare", str(runs), "--out", str(tmp_path / "out" / "deep")])
    raw = (tmp_path / "out" / "deep" / "report.html").read_text()
    ((cohort),) = json.loads(re.search(r'id="runs">(.*?)</script>', raw, re.DOTALL)[1])
    found = {run["name"]: run for run in cohort["runs"]}
    assert {name[:5]: len(run["plots"]) for name, run in found.items()} == {"a/202": 0, "<b> x": 1}
    for link in (found["<b> x/20260101-000000-000"]["plots"][0], found["a/20260101-000000-000"]["folder"]):
        assert not set(link) & set("<> #:") and (tmp_path / "out" / "deep" / unquote(link)).exists()


def test_many_values_are_filtered_by_a_range_or_by_words(tmp_path):
    for i in range(14):
        rate = None if i == 13 else 1e-4 * (i + 1)
        make_run(tmp_path, f"r{i}", changes={"optimizer.learning_rate": rate, "loss.ce": f"form {i}"})
    found = cohorts(read_runs_table([tmp_path]).runs, "val/score")[0]
    (axis,) = found.axes  # both vary together
    assert [_axis(found, replace(axis, keys=(key,)))["kind"] for key in axis.keys] == ["words", "range"]
    about = _axis(found, replace(axis, keys=("optimizer.learning_rate",)))
    assert (about["low"], about["high"]) == ("0.0001", "0.0013")


def test_without_plotly_the_page_has_the_drawings_and_no_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("astromodal.compare.page.live_page.find_spec", lambda name: None)
    for name in "ab":
        make_run(tmp_path, name, changes={"loss.ce": name})
    main(["compare", str(tmp_path)])
    raw = (tmp_path / "report" / "report.html").read_text()
    assert (
        "<script" not in raw
        and "script-src 'none'" in html.unescape(raw)
        and "Curves" in Page(raw).text
        and "<svg" in raw
    )
    assert "pip install plotly" in capsys.readouterr().out


def test_the_page_needs_nothing_from_elsewhere(written):
    whole = (written / "report.html").read_text()
    raw = re.sub(r"<script.*?</script>", "", whole, flags=re.DOTALL)  # these may not connect: see the policy
    assert "http:" not in raw and "https:" not in raw and "@import" not in raw
    page = Page(raw)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("href", "xlink:href", "src")]
    links += re.findall(r"url\(([^)]*)\)", raw)
    inside = [link for link in links if not link.startswith("data:image/png;base64,")]  # colour bars
    runs = [link for link in inside if not link.startswith("#")]
    assert runs and all((written / unquote(link) / "run.json").is_file() for link in runs)
    assert len(runs) < len(inside) and all(link[1:] in ids for link in inside if link not in runs)
    assert raw.count('name="viewport"') == 1 and "overflow-x: auto" in raw


def test_names_for_drawings_are_short_clean_lines():
    assert clean("a\x00b\x1b[31m\n c") == "a b [31m c" and clean("x" * 50, 10) == "x" * 9 + "…"


# ---------------------------------------------------------------------------------------- command


def test_the_table_has_the_best_first_and_names_what_was_skipped(tmp_path, capsys):
    make_run(tmp_path / "runs", "second", score=0.5, changes={"loss.ce": "x"})
    make_run(tmp_path / "runs", "first", score=0.4, changes={"loss.ce": "y"})
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "run.json").write_text("{")
    main(["compare", str(tmp_path / "runs"), "--baseline", "second", "--metric", "ce"])
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[1].split()[:4] == ["configuration", "#", "seeds", "val/ce"]
    assert [line.split()[0] for line in lines[2:4]] == ["first", "second"] and "reference" in lines[3]
    assert "unreadable, skipped" in out and "bad" in out and "cannot tell" in lines[2]
    assert (tmp_path / "runs" / "report" / "report.html").is_file()


def test_stages_can_be_chosen_and_tokenizers_ranked_by_their_summary(tmp_path, capsys):
    make_run(tmp_path, "lm")
    for name, value in (("a", 0.3), ("b", 0.2)):
        folder = make_run(
            tmp_path,
            name,
            record={"stage": "train_tokenizers"},
            inputs={"datacube_X": "1" * 32},
            changes={"tokenizer.name": name},
        )
        (folder / "metrics.jsonl").unlink()
        (folder / "summary.json").write_text(f'{{"image": {{"variance": {value}}}}}')
    main(
        [
            "compare",
            str(tmp_path),
            "--stage",
            "train_tokenizers",
            "--metric",
            "image/variance",
            "--out",
            str(tmp_path / "o"),
        ]
    )
    out = capsys.readouterr().out
    assert out.index("\nb ") < out.index("\na ") and "lm" not in out.split("written")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "got nothing"),
        (["."], "run.json"),
        (["runs", "--metric", "val/scoer"], "val/score"),
        (["runs", "--baseline", "nobody"], "--baseline"),
        (["runs", "--out", "runs/a/20260101-000000-000/x"], "--out"),
        (["runs", "--stage", "encode"], "runs of encode"),
        ([], "RUNS"),
        (["runs", "--colour"], "--colour"),
        (["diff", "runs"], "RUN_B"),
        (["diff", "runs", "nowhere"], "run.json"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_1(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "runs", "a")
    monkeypatch.chdir(tmp_path / "empty" if arguments == ["."] else tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments if arguments[:1] == ["diff"] else ["compare", *arguments])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert sorted(p.name for p in tmp_path.rglob("*") if "report" in p.name) == []


def test_the_report_never_lies_within_a_run_directory(tmp_path):
    a, b = make_run(tmp_path / "runs", "a"), make_run(tmp_path / "runs", "b")
    assert output_folder([a], None) == tmp_path / "runs" / "a" / "report"
    assert output_folder([a, b], None) == tmp_path / "runs" / "report"
    assert output_folder([a / "checkpoints"], None) == tmp_path / "runs" / "a" / "report"
    assert output_folder([tmp_path / "runs"], None) == tmp_path / "runs" / "report"


def test_a_report_is_not_taken_for_a_run_and_can_be_written_again(tmp_path, capsys):
    make_run(tmp_path, "a")
    main(["compare", str(tmp_path)])
    main(["compare", str(tmp_path)])
    out = capsys.readouterr().out
    assert out.count("written") == 2 and "skipped" not in out


def test_nothing_usable_is_a_list_and_not_a_crash(tmp_path, capsys):
    (make_run(tmp_path / "runs", "a") / "config.json").unlink()
    main(["compare", str(tmp_path / "runs")])
    assert "half-written, skipped" in capsys.readouterr().out
    Page((tmp_path / "runs" / "report" / "report.html").read_text())


def test_a_damaged_file_of_object_errors_falls_back_to_the_seeds(tmp_path, capsys):
    for name in "ab":
        for seed in range(2):
            folder = make_run(
                tmp_path,
                name,
                f"s{seed}",
                seed=seed,
                changes={"loss.ce": name},
                errors=object_errors(np.random.default_rng(seed)),
            )
    (folder / OBJECT_ERRORS).write_bytes(b"")
    main(["compare", str(tmp_path)])
    assert "without object_errors.npz on both sides" in capsys.readouterr().out


def test_help_is_fast_and_loads_nothing_heavy(repo):
    code = (
        "import sys\ntry:\n    from astromodal.__main__ import main; main(['compare', '--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "print({'torch', 'matplotlib', 'sklearn', 'pyarrow', 'hydra', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(repo / "src"), "PATH": ""},
    )
    assert result.stdout.strip().endswith("set()") and "astromodal diff" in result.stdout


def test_the_command_runs_in_a_checkout(repo, tmp_path):
    make_run(tmp_path, "a")
    command = [sys.executable, "-m", "src.astromodal", "compare"]
    for arguments, said in ((["--help"], "astromodal diff"), ([str(tmp_path)], "written"), (["nowhere"], "error: ")):
        result = subprocess.run([*command, *arguments], cwd=repo, capture_output=True, text=True)
        assert said in result.stdout + result.stderr and result.returncode == (arguments == ["nowhere"])


# ---------------------------------------------------------------------------------------- browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


MEASURE = """
const all = (selector) => [...page.querySelectorAll(selector)];
for (const plot of all(".plot"))  // each is drawn when it comes into view
  for (let i = 0; i < 80 && !plot.querySelector(".main-svg"); i++) {
    plot.scrollIntoView();
    await new Promise((done) => setTimeout(done, 100));
  }
const inside = all(".plot").map((plot) => plot.getBoundingClientRect().width);
const found = {
  content: page.documentElement.scrollWidth, plots: inside.length,
  drawn: all(".plot").filter((plot) => plot.querySelector(".main-svg")).length,
  still: all(".still:not([hidden])").length, narrowest: Math.min(...inside), widest: Math.max(...inside),
  made: all("body img, body b, svg a, .plot script").length,
  named: all(".plot text").map((text) => text.textContent).filter((text) => text.includes("$a_b$")),
};
const box = all("input[type=checkbox]")[0], rows = () => all("tr[data-group]:not([hidden])").length;
found.rows = rows(); box.click(); found.fewer = rows(); box.click();
all("tr[data-group]")[0].click();
found.opened = page.querySelector("dialog[open] a").getAttribute("href");
document.title = JSON.stringify(found);
"""


@pytest.mark.slow
@needs_plotly
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [390, 1400])
def test_a_browser_shows_the_page_without_overflow(written, tmp_path, width):
    """The page as a browser lays it out, filters it and opens a run; its policy holds, as the page is not changed."""
    # A window is at least 500 px wide, so the page is put into a frame of the wanted width, and asked from outside.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="{(written / "report.html").as_uri()}" style="width:{width}px;height:2000px;border:0"></iframe>'
        '<script>document.querySelector("iframe").onload = async (event) => {'
        f"const page = event.target.contentDocument; try {{ {MEASURE} }} catch (error) {{ document.title = error; }} }}"
        "</script>"
    )
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--allow-file-access-from-files", "--window-size=1600,2200", "--virtual-time-budget=120000"]
    command = [CHROMIUM, *options, "--dump-dom", frame.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    title = re.search(r"<title>([^<]*)</title>", result.stdout)
    assert title, result.stdout[:500]
    found = json.loads(html.unescape(title[1]))
    assert found["content"] <= width and found["plots"] >= found["drawn"] >= 8 and found["still"] == 0, found
    assert found["narrowest"] >= (0.9 if width == 390 else 0.3) * width and found["widest"] >= 0.9 * width
    assert found["made"] == 0 and all("<" in text for text in found["named"])
    assert found["fewer"] < found["rows"] and found["opened"].startswith("../runs/")


def test_the_path_of_a_report_may_be_relative(tmp_path, monkeypatch):
    make_run(tmp_path / "runs", "a")
    monkeypatch.chdir(tmp_path)
    main(["compare", "runs/a"])
    assert (Path("runs") / "a" / "report" / "runs.csv").is_file()


def test_a_lone_run_has_curves_and_nothing_to_compare(tmp_path):
    make_run(tmp_path, "a")
    main(["compare", str(tmp_path)])
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert FIGURES & set(page.text) == {"Curves"}


def test_what_a_reader_has_to_know_is_said(tmp_path, capsys):
    for seed, revision in enumerate(("a" * 40, "b" * 40)):
        make_run(tmp_path, "x", f"s{seed}", seed=seed, record={"git": {"revision": revision, "dirty": seed == 1}})
    make_run(tmp_path, "x", "again", seed=1, record={"created": "2027", "git": {"revision": "b" * 40, "dirty": True}})
    make_run(tmp_path, "y", inputs={})
    main(["compare", str(tmp_path)])
    out = capsys.readouterr().out
    assert "code differs between these runs: aaaaaaaaaa, bbbbbbbbbb + changes" in out
    assert "1 older run with the configuration and seed of a newer one" in out
    assert "marginal distribution gives 1" in out and "do not record what they read" in out
