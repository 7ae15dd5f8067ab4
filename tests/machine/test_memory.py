"""The peak of memory rises with what was used, and stays."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from astromodal.files.io import read_json
from astromodal.machine.memory import forget_peak, peak_memory
from astromodal.runs.run import RunContext


def test_a_large_array_shows_and_stays(repo):
    code = (
        "import json, numpy as np; from astromodal.machine.memory import peak_memory\n"
        "before = peak_memory(); a = np.ones(200_000_000, np.uint8); del a\n"
        "print(json.dumps([before['peak_memory_mb'], peak_memory()['peak_memory_mb']]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(repo / "src"), "OMP_NUM_THREADS": "1"},
    )
    before, after = json.loads(result.stdout)
    assert 150 < after - before < 201 and before > 5  # importing left a peak of its own


def test_every_run_records_it(tmp_path):
    with RunContext.open({"run_dir": str(tmp_path / "r"), "run_id": "a", "name": "n"}, "train_lm"):
        pass
    with pytest.raises(RuntimeError), RunContext.open({"run_dir": str(tmp_path / "f"), "run_id": "b"}, "encode"):
        raise RuntimeError
    for name in "rf":
        assert 5 < read_json(tmp_path / name / "run.json")["peak_memory_mb"] < 100_000


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_the_peak_of_what_was_before_is_forgotten():
    block = np.ones(60_000_000)  # 480 MB
    high = peak_memory()["peak_memory_mb"]
    del block
    assert peak_memory()["peak_memory_mb"] > high - 5  # the kernel counts in batches
    forget_peak()
    assert peak_memory()["peak_memory_mb"] < high - 300
