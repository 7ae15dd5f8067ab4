"""The command line: every documented override composes, every mistake is one line with exit code 1."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.pipeline.conftest import Outcome, launch_stage

MISTAKES = {
    "loss.weight_imag=1": "did you mean loss.weight_image?",
    "+foo=1": "got foo",
    "+loss.foo=1": "got loss.foo",
    "model=smal": "did you mean small?",
    "modl=tiny": "did you mean model?",
    "tokenizer/image/codec=vea": "expected one of autoencoder",
    "training.epochs=many": "expected a value of type Integer, got 'many' (training.epochs)",
    "training.epochs=null": "training.epochs cannot be switched off",
    "sequence.order=any": "expected one of fixed, random, ask, got any (sequence.order)",
    "model.n_heads=5 model=tiny": "model.n_heads=4",
    "loss.sample_k=-1": "expected loss.sample_k >= 0, got -1",
    "sequence.modalities=[image,spectra]": "did you mean spectrum?",
    "loss.use_ce=false loss.enabled=false": "loss=combined",
    "sequence=random sequence.next_types=false": "sequence.next_types=true",
    "data.splits.val_fraction=0.6 data.splits.test_fraction=0.5": "val_fraction + test_fraction < 1",
    "tokenizer.scalar.n_bins=4": "give it to the stage that uses 'tokenizer'",
    "hparams=sample_k": "train_lm.py -m hparams=sample_k",
    "-m seed=0,1 --cfg job": "expected -m or --cfg, got both",
    "--config-name=nothing": "Cannot find primary config 'nothing'",
    "loss.weight_image=[1": "no viable alternative",
    "+data.splits.cell_deg=a=b": """to repair: quotes for Hydra within quotes for the shell""",
    "tokenizer=null": "got null (group tokenizer)",
    "data.fields=[]": "at least one entry, or null for all, got none (data.fields)",
    "model.d_model=120000000": "model.d_model=120000000, model.n_layers=",
    "+data.scalars.photz_z={min:0.0}": "to repair: '+data.scalars={photz_z:{…}}'",
    "+data.scalars.photz_z.min=0.0": "to repair: '+data.scalars={photz_z:{min:…}}'",
    "data.images.bands.w.column=x data=splus": "check the name; a new one: '+data.images.bands={w:{…}}'",
}


# seen before Hydra is imported, by Hydra itself, and in what it has composed: these as a shell runs them
IN_A_PROCESS = ("loss.weight_imag=1", "--config-name=nothing", "model.d_model=120000000", "model=large --cfg job")


@pytest.fixture
def command(script, tmp_path):
    """``<stage>.py`` with these arguments: in this process, or as a shell would run it."""

    def run(stage: str, *arguments: str) -> Outcome:
        if " ".join(arguments) in IN_A_PROCESS:
            done = script(stage, *arguments, cwd=tmp_path)
            return Outcome(done.returncode, done.stdout, done.stderr)
        return launch_stage(stage, *arguments, cwd=tmp_path)

    return run


@pytest.mark.parametrize("arguments", MISTAKES, ids=str)
def test_a_mistake_is_one_line_and_exit_code_1(arguments, command, tmp_path):
    result = command("train_lm", *arguments.split())
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert MISTAKES[arguments] in lines[0]
    assert not (tmp_path / "artifacts").exists()
    assert not list(tmp_path.glob("runs/*/*/*")), "a refused configuration leaves no run behind"


@pytest.mark.parametrize(
    "stage, arguments, expected",
    [
        (
            "train_lm",
            "loss.weight_image=0.2 loss.sample_k=256 model=small optimizer=muon hardware=cpu",
            "weight_image: 0.2",
        ),
        ("train_lm", "model=base", "d_ff: 3072"),
        ("train_lm", "model=large", "n_layers: 24"),
        ("train_lm", "loss=cross_entropy", "enabled: false"),
        ("train_lm", "loss=reconstruction", "use_ce: false"),
        ("train_tokenizers", "tokenizer=image", "scalar: null"),
        ("train_tokenizers", "tokenizer=recommended tokenizer.spectrum.quantizer.n_codes=64", "n_stages: 2"),
        ("train_tokenizers", "tokenizer=recommended tokenizer/image/codec=vae", "epochs: 40"),
        ("train_tokenizers", "tokenizer/image/codec=autoencoder tokenizer.image.codec.width=8", "width: 8"),
        ("encode", "data=kids_viking data.root=/nowhere", "kids_cut_Ks"),
        ("encode", "data=splus data.root=/nowhere", "splus_cut_F378"),
        ("train_lm", "experiment=demo", "name: demo"),
        ("evaluate", "evaluate.given=[spectrum,mag_pstotal_r]", "- mag_pstotal_r"),
    ],
)
def test_overrides_compose(stage, arguments, expected, command):
    result = command(stage, *arguments.split(), "--cfg", "job")
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout


@pytest.mark.parametrize("stage", ["build_datacubes", "train_tokenizers", "encode", "train_lm", "evaluate"])
def test_help_is_fast_and_lists_the_groups(stage, script, tmp_path):
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = script(stage, "--help", cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the processor: others may be at work as well
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert result.returncode == 0
    assert "combined | cross_entropy | recommended" in result.stdout
    assert f"python {stage}.py" in result.stdout
    assert min(seconds) < 0.35


def test_what_a_dictionary_may_be_given_is_given_as_the_repair_says(command):
    refused = command("train_tokenizers", "tokenizer.spectrum.patch_sizes.desi_b=8")
    assert "a new one: +tokenizer.spectrum.patch_sizes.desi_b=" in refused.stderr and refused.returncode == 1
    for override, expected in (
        ("+tokenizer.spectrum.patch_sizes.desi_b=8", "desi_b: 8"),
        ("+data.scalars={photz_z:{min:0.25}}", "min: 0.25"),
    ):
        assert expected in command("train_tokenizers", override, "--cfg", "job").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("tokenizer=spectrum +tokenizer.image={codec:{width:8}}", "got tokenizer.image={…} in place of null"),
        ("tokenizer=spectrum tokenizer.scalar={n_bins:8}", "got tokenizer.scalar={…} in place of null"),
        ("data=splus data.synthetic={n_fields:3}", "got data.synthetic={…} in place of null"),
        ("tokenizer.image.codec=3", "expected settings of a codec, got 3 (tokenizer.image.codec)"),
        ("+tokenizer.spectrum.patch_sizes={desi_b:[1]}", "entries of type int, got [1] (tokenizer.spectrum.patch_"),
        ("data.fields=[{a:1}]", "expected entries of type str, got {'a': 1} (data.fields)"),
    ],
)
def test_a_section_or_a_list_where_none_can_be_is_one_line(command, arguments, expected):
    line = command("train_tokenizers", *arguments.split()).error()
    assert expected in line and "\n" not in line


def test_configuration_errors_import_no_torch(repo, tmp_path):
    code = (
        "import sys, runpy; sys.argv = ['train_lm.py', 'loss.weight_imag=1']\n"
        "try: runpy.run_path(r'%s', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 1\n"
        "heavy = {'torch', 'sklearn', 'wandb', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy" % (repo / "train_lm.py")
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_experiment_and_every_option_composes(repo, command):
    for experiment in sorted((repo / "conf" / "experiment").glob("*.yaml")):
        for stage in ("train_tokenizers", "encode", "train_lm", "evaluate"):
            result = command(stage, f"experiment={experiment.stem}", "--cfg", "job")
            assert result.returncode == 0, result.stderr


def test_a_users_own_experiment_is_found_beside_the_built_in_ones(command, tmp_path):
    mine = tmp_path / "conf" / "experiment"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text("# @package _global_\nloss: {weight_image: 0.37}\n")
    result = command("train_lm", "--config-dir", str(tmp_path / "conf"), "experiment=mine", "--cfg", "job")
    assert result.returncode == 0, result.stderr
    assert "weight_image: 0.37" in result.stdout
