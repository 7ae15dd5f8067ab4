"""What is wrong at first sight is refused before Hydra is imported, what is right is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from astromodal.config.checks.first_sight import section_of
from astromodal.config.launching.command_line import checked
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
TOGETHER = {  # fine one by one
    "model=tiny model.n_heads=3": "model.n_heads that divides model.d_model=128, got 3",
    "model.d_model=100 model.n_heads=8": "to repair: model.n_heads=10",
    "loss.use_ce=false loss.enabled=no": "loss.use_ce or loss.enabled",
    "loss=reconstruction loss.share_image=0.2": "loss.use_ce=true",
    "loss=smoothed loss.standardize=false loss.scalar.errors=width": "loss.standardize=true",
    "sequence=random sequence.next_types=false": "sequence.next_types=true with sequence.order=random",
    "sequence.modalities=[image,spectra]": "did you mean spectrum?",
    "data=splus data.splits.val_fraction=0.6 data.splits.test_fraction=0.5": "val_fraction + test_fraction < 1",
}
ACCEPTED = [
    "model=tiny",
    "data=splus",
    "+data.scalars={y:{min:0,column:z}}",
    "~data.scalars.z",
    "loss.sample_k=null",
    "training.max_steps=1_000",
    "optimizer.learning_rate=${seed}",
    "data@data=splus",
    "experiment=null",
    "recipe=null",
    "hydra.run.dir=x",
    "hydra/launcher=slurm",
    "evaluate.judge=null",
    "data.scalars.z.sentinels=[1,2]",
    "seed=choice(1,2)",
    "loss.image.form=energy",
    "training.pin_memory=yes",
]


@pytest.mark.parametrize("override", REFUSED)
def test_a_mistake_is_named(override):
    with pytest.raises(ConfigError) as caught:
        checked([override], "train_lm")
    assert REFUSED[override] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("overrides", TOGETHER)
def test_values_that_cannot_work_together_are_named(overrides):
    with pytest.raises(ConfigError) as caught:
        checked(overrides.split(), "train_lm")
    assert TOGETHER[overrides] in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_asked_is_looked_at_by_the_stage_that_asks():
    with pytest.raises(ConfigError, match="did you mean val"):
        checked(["evaluate.splits=[test,vall]"], "evaluate")
    assert checked(["evaluate.splits=[test,vall]"], "train_lm")


@pytest.mark.parametrize(
    "other",
    [
        "experiment=demo",
        "hparams=seeds",
        "++model.n_heads=1",
        "model.n_heads=${seed}",
        "model={n_heads:1}",
        "--cfg job",
        "-m",
        "--config-dir conf",
    ],
)
def test_sections_that_something_else_may_change_are_left_to_hydra(other):
    """The later of two values counts, and what follows may be one that is not read here."""
    given = ["model=tiny", "model.n_heads=3", *other.split(), *(["-m"] if other == "hparams=seeds" else [])]
    assert set(checked(given, "train_lm")) == set(given)


OPTIONS = [
    ["model=tiny", "loss=recommended", "sequence=ask", "model.n_heads=3", "loss.sample_k=null", "loss.image.beta=2"],
    ["model=large", "loss=smoothed", "sequence=random", "data=splus", "model.dropout=1e-1", "model.tie_head=off"],
    ["loss=strictly_proper", "sequence.modalities=[image,scalar]", "data=kids_viking", "data.splits.seed=7"],
    ["model=base", "loss=reconstruction", "model.values=null", "loss.scalar.form=crps", "data.splits.method=hash"],
    ["loss=cross_entropy", "sequence.missing=token", "evaluate.quantiles=[0.1,0.9]", "evaluate.judge=null"],
    ["evaluate.judge.n_bins=3", "evaluate.splits=[val]", "evaluate.calibration=off", "evaluate.given=[]"],
]


@pytest.mark.parametrize("overrides", OPTIONS, ids=" ".join)
def test_sections_are_put_together_as_by_hydra(overrides):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from astromodal.config.launching.register import register

    register()
    with initialize_config_dir(config_dir=str(REPO / "conf"), version_base="1.3"):
        cfg = compose("train_lm", ["run_dir=x", "run_id=y", "tokenizer_id=z", *overrides])
    for key in ("data.splits", "model", "loss", "sequence", "evaluate"):
        expected = OmegaConf.to_object(OmegaConf.select(cfg, key))
        found = section_of(key, overrides)
        assert found == expected and type(found) is type(expected), key


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

ERRORS = (
    ["loss.weight_imag=1"],
    ["model=smal"],
    ["training.epochs=many"],
    ["loss=null"],
    ["model=tiny", "model.n_heads=3"],
    ["data.splits.val_fraction=0.6", "data.splits.test_fraction=0.5"],
)


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
    assert median(ratios) < 1.5 and max(ratios) < 2, ratios


def test_a_mistake_imports_no_hydra(tmp_path: Path):
    code = (
        "import sys, runpy; sys.argv = ['train_lm.py', 'loss.weight_imag=1']\n"
        f"try: runpy.run_path({str(REPO / 'train_lm.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 1\n"
        "print({'hydra', 'omegaconf', 'yaml', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()" and done.stderr.count("\n") == 1
