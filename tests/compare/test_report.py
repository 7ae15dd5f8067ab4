"""The command and its page: what it prints and writes, what it leaves alone, and that the page is safe and complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from astromodal.__main__ import main
from astromodal.commands.compare import output_folder
from astromodal.compare.rundir import OBJECT_ERRORS
from astromodal.plots.svg import clean
from tests.compare.fake_runs import INPUTS, make_run, object_errors, sweep
from tests.pipeline.conftest import contents

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
    assert sorted(p.name for p in written.iterdir()) == ["ledger.csv", "ledger.parquet", "report.html"]


def test_the_page_has_every_figure_and_every_group(written):
    page = Page((written / "report.html").read_text())
    titles = [page.text[i] for i in range(len(page.text)) if page.text[i] in FIGURES]
    assert set(titles) == FIGURES and titles.count("Differences") == 2  # one per group of comparable runs
    assert sum(tag == "svg" for tag, _ in page.tags) >= 9
    text = " ".join(page.text)
    assert "2 groups that may not be compared" in text and "Directories that cannot be used" in text


def test_no_text_becomes_markup(written):
    page = Page((written / "report.html").read_text())
    assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object", "embed", "foreignobject", "base"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert EVIL in page.text  # shown as it is, in a table
    assert any(text.startswith("#1 $a_b$ <script>") for text in page.text)  # in a drawing, cut off


def test_the_page_needs_nothing_from_elsewhere(written):
    raw = (written / "report.html").read_text()
    assert "http" not in raw and "@import" not in raw and "//" not in re.sub(r"\s", "", raw.split("</style>")[0])
    page = Page(raw)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("href", "xlink:href", "src")]
    links += re.findall(r"url\(([^)]*)\)", raw)
    inside = [link for link in links if not link.startswith("data:image/png;base64,")]  # colour bars
    assert inside and all(link.startswith("#") and link[1:] in ids for link in inside)
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


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [390, 1400])
def test_a_browser_shows_the_page_without_overflow(written, tmp_path, width):
    """The page as a browser lays it out: nothing but tables and figures is wider than the window."""
    measure = (
        "<script>document.title = [document.documentElement.scrollWidth, innerWidth, "
        "[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().height > 50).length,"
        "getComputedStyle(document.querySelector('.scroll')).overflowX].join('|')</script></body>"
    )
    page = tmp_path / "page.html"
    page.write_text((written / "report.html").read_text().replace("</body>", measure))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    # A window is at least 500 px wide, so the page is put into a frame of the wanted width.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="page.html" style="width:{width}px;height:2000px;border:0" '
        'onload="document.title=this.contentDocument.title"></iframe>'
    )
    result = subprocess.run(
        [
            *command,
            "--allow-file-access-from-files",
            "--window-size=1600,2200",
            "--virtual-time-budget=5000",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    found = re.search(r"<title>([^<]*)</title>", result.stdout)
    assert found, result.stdout[:500]
    content, window, drawings, overflow = found[1].split("|")
    assert int(content) <= int(window) == width and int(drawings) >= 9 and overflow == "auto"


def test_the_path_of_a_report_may_be_relative(tmp_path, monkeypatch):
    make_run(tmp_path / "runs", "a")
    monkeypatch.chdir(tmp_path)
    main(["compare", "runs/a"])
    assert (Path("runs") / "a" / "report" / "ledger.csv").is_file()


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
