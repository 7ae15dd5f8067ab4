"""What is wrong at first sight is refused before Hydra is imported, what is right is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from astromodal.config.command_line import checked
from astromodal.errors import ConfigError

REPO = Path(__file__).resolve().parents[2]
REFUSED = {
    "model=null": "one of base, large, small, tiny, got null (group model)",
    "loss=null": "got null (group loss)",
    "data=null": "got null (group data)",
    "schedule=null": "got null (group schedule)",
    "~model": "got null (group model)",
    "=3": "expected KEY=VALUE, got =3",
    "foo": "expected KEY=VALUE, got foo",
    "model.max_len=99999999999999999999": "an integer of at most 9,223,372,036,854,775,807 (64 bits)",
    "data.splits.seed=-99999999999999999999": "64 bits",
    "model.d_modl=3": "did you mean model.d_model?",
    "~loss.weight_imag": "did you mean loss.weight_image?",
    "loss.weight_image=inf": "a finite number, got inf (loss.weight_image)",
    "training.grad_clip=-inf": "a finite number",
    "training.epochs=1.5": "a value of type Integer, got '1.5'",
    "training.pin_memory=maybe": "a value of type Boolean",
    "loss.weight_image=much": "a value of type Float",
    "name=null": "name cannot be switched off with null",
    "data.fields=A": "to repair: 'data.fields=[A]'",
    "data.splits=3": "data.splits.KEY=VALUE",
    "loss.image.form=enrgy": "did you mean energy?",
    "schedule.min_lr_ratio=2": "0 <= schedule.min_lr_ratio <= 1",
}
ACCEPTED = [
    "model=tiny", "data=splus", "+data.scalars={y:{min:0,column:z}}", "~data.scalars.z", "loss.sample_k=null",
    "training.max_steps=1_000", "optimizer.learning_rate=${seed}", "data@data=splus", "experiment=null", "recipe=null",
    "hydra.run.dir=x", "hydra/launcher=slurm", "evaluate.judge=null", "data.scalars.z.sentinels=[1,2]",
    "seed=choice(1,2)", "loss.image.form=energy", "training.pin_memory=yes",
]  # fmt: skip


@pytest.mark.parametrize("override", REFUSED)
def test_a_mistake_is_named(override):
    with pytest.raises(ConfigError) as caught:
        checked([override], "train_lm")
    assert REFUSED[override] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ACCEPTED)
def test_what_hydra_can_read_is_left_to_it(override):
    stage = "train_tokenizers" if override == "recipe=null" else "train_lm"
    assert checked([override], stage) == [override]


def test_each_value_of_a_sweep_is_looked_at():
    assert checked(["-m", "model=tiny,small", "seed=0,1"], "train_lm") == ["-m", "model=tiny,small", "seed=0,1"]
    with pytest.raises(ConfigError, match="got smal "):
        checked(["-m", "model=tiny,smal"], "train_lm")
    with pytest.raises(ConfigError, match=r"loss\.sample_k >= 0"):
        checked(["-m", "loss.sample_k=1,-1"], "train_lm")


def test_options_of_the_users_folders_count_and_unknown_folders_are_left_to_hydra(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("name: mine\n")
    given = ["--config-dir", str(tmp_path), "data=mine"]
    assert checked(given, "encode") == given
    for flag in (["--config-dir", str(tmp_path / "data"), "data=mine"], ["data=mine"]):
        with pytest.raises(ConfigError, match="group data"):
            checked(flag, "encode")
    for open_ in (["--config-name", "study", "mine=x"], ["hydra.searchpath=[file:///x]", "data=mine"]):
        assert checked(open_, "encode") == open_


# ------------------------------------------------------------------------------------------------ time

ERRORS = (["loss.weight_imag=1"], ["model=smal"], ["training.epochs=many"], ["loss=null"])


def cpu_seconds(*command: str, cwd: Path) -> float:
    """User and system time of a process: less disturbed by other processes than the clock."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_mistake_costs_at_most_twice_the_import_of_hydra(tmp_path: Path):
    ratios = []
    for arguments in ERRORS:  # interleaved: what disturbs one measurement disturbs its neighbour
        hydra = cpu_seconds("-c", "import hydra", cwd=tmp_path)
        ratios.append(cpu_seconds(str(REPO / "train_lm.py"), *arguments, cwd=tmp_path) / hydra)
    assert median(ratios) < 2, ratios


def test_a_mistake_imports_no_hydra(tmp_path: Path):
    code = (
        "import sys, runpy; sys.argv = ['train_lm.py', 'loss.weight_imag=1']\n"
        f"try: runpy.run_path({str(REPO / 'train_lm.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 1\n"
        "print({'hydra', 'omegaconf', 'yaml', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()" and done.stderr.count("\n") == 1
