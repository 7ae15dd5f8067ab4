"""The folder of a synthetic sky: written once, the same for any number of processes, repaired when it is damaged."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from astromodal.config.schema import DataConfig, SyntheticConfig
from astromodal.data.synthetic import check_place, ensure_survey, survey
from astromodal.errors import ArtifactError, DataError


def template(data: DataConfig) -> str:
    return f"{data.root}/datacube_{{field}}.parquet"


def small(root: Path, **changes) -> DataConfig:
    config = SyntheticConfig(**({"n_fields": 2, "n_objects_per_field": 40, "image_fraction": 0.1} | changes))
    return DataConfig(name="synthetic", root=str(root), synthetic=config)


def contents(paths: list[Path]) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths]


# --- reproducibility


def test_the_sky_depends_on_the_seed_alone_and_not_on_processes(tmp_path):
    one = small(tmp_path / "one", seed=3)
    two = small(tmp_path / "two", seed=3, n_processes=2)
    other = small(tmp_path / "other", seed=4)
    files = [contents(ensure_survey(data, template(data))) for data in (one, two, other)]
    assert files[0] == files[1], "byte-identical"
    assert files[0] != files[2]
    assert (tmp_path / "one/zero_points.csv").read_bytes() == (tmp_path / "two/zero_points.csv").read_bytes()


def test_the_same_parameters_write_nothing_and_others_write_anew(tmp_path):
    data = small(tmp_path)
    paths = ensure_survey(data, template(data))
    before = [path.stat().st_mtime_ns for path in (*paths, tmp_path / "zero_points.csv", tmp_path / "manifest.json")]
    data.synthetic.n_processes = 2
    assert ensure_survey(data, template(data)) == paths
    after = [path.stat().st_mtime_ns for path in (*paths, tmp_path / "zero_points.csv", tmp_path / "manifest.json")]
    assert before == after
    first = contents(paths)
    data.synthetic.seed = 9
    assert contents(ensure_survey(data, template(data))) != first
    data.synthetic.seed = 0
    assert contents(ensure_survey(data, template(data))) == first


def test_more_fields_keep_the_old_ones_and_fewer_remove_the_rest(tmp_path):
    data = small(tmp_path)
    old = ensure_survey(data, template(data))
    times, bytes_ = [path.stat().st_mtime_ns for path in old], contents(old)
    data.synthetic.n_fields = 3
    assert len(ensure_survey(data, template(data))) == 3
    assert [path.stat().st_mtime_ns for path in old] == times and contents(old) == bytes_
    assert (tmp_path / "zero_points.csv").read_text().count("SYN-0003") == 12
    data.synthetic.n_fields = 1
    ensure_survey(data, template(data))
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["datacube_SYN-0001.parquet"]
    assert old[0].stat().st_mtime_ns == times[0]


def test_two_that_ask_at_the_same_time_write_it_once(tmp_path, monkeypatch):
    data, written = small(tmp_path, image_fraction=0.03), []
    write = survey._write_job
    monkeypatch.setattr(survey, "_write_job", lambda job, sky: (written.append(job[0]), write(job, sky)))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: ensure_survey(data, template(data)), range(2))
    assert first == second and sorted(written) == [0, 1]


# --- repair


@pytest.mark.parametrize(
    "harm", ["no manifest", "corrupt manifest", "poor manifest", "short cube", "no cube", "no csv"]
)
def test_an_unfinished_or_damaged_folder_is_repaired(tmp_path, harm):
    data = small(tmp_path, image_fraction=0.03)
    paths = ensure_survey(data, template(data))
    good, points = contents(paths), (tmp_path / "zero_points.csv").read_bytes()
    manifest = tmp_path / "manifest.json"
    if harm == "no manifest":
        manifest.unlink()
    elif harm == "corrupt manifest":
        manifest.write_text('{"schema_version": 1, "conf')
    elif harm == "poor manifest":
        manifest.write_text('{"schema_version": 1}')
    elif harm == "short cube":
        paths[1].write_bytes(good[1][:-100])
    elif harm == "no cube":
        paths[0].unlink()
    else:
        (tmp_path / "zero_points.csv").unlink()
    assert contents(ensure_survey(data, template(data))) == good
    assert (tmp_path / "zero_points.csv").read_bytes() == points


def test_a_change_of_parameters_that_was_killed_does_not_pass_for_the_old_sky(tmp_path, monkeypatch):
    data = small(tmp_path, image_fraction=0.03)
    paths = ensure_survey(data, template(data))
    good = contents(paths)
    monkeypatch.setattr("astromodal.data.synthetic.survey._write_zero_points", lambda *_: 1 / 0)
    data.synthetic.seed = 8
    with pytest.raises(ZeroDivisionError):
        ensure_survey(data, template(data))
    monkeypatch.undo()
    data.synthetic.seed = 0
    assert contents(ensure_survey(data, template(data))) == good


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    data = small(tmp_path / "file" / "cubes")
    with pytest.raises(ArtifactError, match="folder that can be written"):
        ensure_survey(data, template(data))


# --- memory

_MEASURE = """
import resource, sys
from astromodal.config.schema import SyntheticConfig
from astromodal.data.synthetic.write import write_field
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for n in (256, 768):
    write_field(sys.argv[1], SyntheticConfig(n_objects_per_field=n, image_fraction=0.35), 0)
    print(peak())
"""


def test_memory_does_not_grow_with_the_number_of_objects(repo, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "cube.parquet")],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(repo / "src"), "OMP_NUM_THREADS": "1"},
    )
    few, many = map(int, done.stdout.split())
    cutouts = 0.35 * 768 * 12 * 9216 * 4 / 2**20  # MiB, if all of them were held
    assert many - few < 0.3 * cutouts, (few, many)


def test_a_sky_is_generated_only_where_nothing_of_others_is_and_somebody_meant_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = SimpleNamespace(name="sky")
    check_place(data, "artifacts/sky/cubes/datacube_{field}.parquet")  # the default: made as needed
    with pytest.raises(DataError, match=r"got no such folder \(typo\); to repair: make the folder, or add data=splus"):
        check_place(data, "typo/datacube_{field}.parquet")
    (tmp_path / "mine").mkdir()
    check_place(data, "mine/datacube_{field}.parquet")
    for name in ("datacube_SYN-0001.parquet", "zero_points.csv", ".datacube_SYN-0002.1.tmp.parquet"):
        (tmp_path / "mine" / name).write_text("")
    check_place(data, "mine/datacube_{field}.parquet")  # what an interrupted writing leaves
    (tmp_path / "mine" / "datacube_STRIPE82-0001.parquet").write_text("")
    with pytest.raises(DataError, match=r"one that holds datacube_STRIPE82-0001\.parquet \(mine\).*data=splus"):
        check_place(data, "mine/datacube_{field}.parquet")
