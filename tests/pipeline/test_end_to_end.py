"""The three stages on the tiny survey: what they leave, that it fits together, and that every option trains."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from astromodal.files.io import load_npz, load_torch, read_jsonl
from astromodal.tokens import TokenStore

from .conftest import MODEL, SURVEY, TOKENIZERS, Workplace, contents, launch_stage

REPO = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n\x1a\n"
LM_FILES = (
    ".hydra/config.yaml",
    ".hydra/overrides.yaml",
    ".hydra/hydra.yaml",
    "config.yaml",
    "config.json",
    "run.json",
    "train_lm.log",
    "metrics.jsonl",
    "training_history.json",
    "vocab_spec.json",
    "summary.json",
    "checkpoints/last.pt",
    "checkpoints/best.pt",
    "best_model.pt",
    "final_model.pt",
    "plots/curves.png",
    "plots/scalars.png",
    "plots/spectra.png",
    "plots/cutouts.png",
)
GROUPS = ("desi_b", "desi_r", "desi_z", "gaiaxp_bp", "gaiaxp_rp")


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (REPO / "conf" / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def run_dir(pipeline: Workplace) -> Path:
    (folder,) = pipeline.runs("train_lm")
    return folder


# ------------------------------------------------------------------------------- what the stages leave


def test_a_run_directory_holds_everything_documented(run_dir: Path):
    assert [name for name in LM_FILES if not (run_dir / name).is_file()] == []
    assert run_dir.parts[-4:-1] == ("runs", "train_lm", "default")


@pytest.mark.parametrize("stage", ["train_tokenizers", "encode", "train_lm"])
def test_every_stage_records_how_it_ran_and_what_it_read(pipeline: Workplace, stage: str):
    (folder,) = pipeline.runs(stage)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "DONE" and record["stage"] == stage and record["run_id"] == folder.name
    assert record["command"].startswith(f"{stage}.py data.synthetic.n_fields=2")
    assert record["ended"] and record["seconds"] > 0
    assert set(record["versions"]) >= {"python", "torch", "numpy", "astromodal"}
    assert set(record["git"]) == {"revision", "dirty"}
    wanted = {f"{name}_tokenizer" for name in ("scalar", "spectrum", "image")}
    wanted |= {"sequences"} if stage == "train_lm" else {"datacube_SYN-0001", "datacube_SYN-0002"}
    recorded = record["inputs"] | record["outputs"]
    assert set(recorded) >= wanted
    assert all(len(fingerprint) == 32 for fingerprint in recorded.values())
    for name in (f"{stage}.log", "config.yaml", ".hydra/config.yaml"):
        assert (folder / name).stat().st_size, name
    assert json.loads((folder / "config.json").read_text())["stage"] == stage
    assert not list(folder.rglob("*.lock")) and not list(folder.rglob(".*.tmp*"))


def test_stages_agree_about_their_inputs(pipeline: Workplace):
    fitted, encoded, trained = (pipeline.record(stage) for stage in ("train_tokenizers", "encode", "train_lm"))
    for name in ("scalar_tokenizer", "spectrum_tokenizer", "image_tokenizer"):
        assert fitted["outputs"][name] == encoded["inputs"][name] == trained["inputs"][name]
    assert encoded["outputs"]["tokens"] == trained["inputs"]["tokens"] and set(trained["outputs"]) == {"model"}
    assert not set(fitted["inputs"]) & set(fitted["outputs"])


def test_pictures_are_png(pipeline: Workplace):
    pictures = sorted(pipeline.folder.glob("runs/*/*/*/plots/*"))
    assert len(pictures) == 8  # three tokenizers; curves, gradient shares, scalars, spectra, cutouts
    for path in pictures:
        assert path.read_bytes().startswith(PNG) and path.stat().st_size > 2000, path


def test_artifacts_have_the_documented_names(pipeline: Workplace):
    tokenizers, tokens = pipeline.store / "tokenizers", pipeline.store / "tokens"
    names = ["scalar_tokenizers/scalar_tokenizer_config.npz", "spectrum_tokenizers/spectrum_tokenizer_config.npz"]
    names += [f"spectrum_tokenizers/spectrum_kmeans_{group}.joblib" for group in GROUPS]
    names += ["codecs/autoencoder_splus_cuts.pt", "codecs/codebook_kmeans_16.joblib"]
    assert [name for name in names if not (tokenizers / name).is_file()] == []
    for field in ("SYN-0001", "SYN-0002"):
        for name in (
            "image_tokens/datacube_{}_tokens.npz",
            "image_latents/datacube_{}_latents.npz",
            "scalar_tokens/datacube_{}_scalar_tokens.npz",
            "spectrum_tokens/datacube_{}_spectrum_tokens.npz",
        ):
            assert (tokens / name.format(field)).is_file(), name
    folders = {path.parent for path in pipeline.store.rglob("*.npz")} - {p for p in tokens.glob("*")}
    assert [str(f) for f in [*folders, tokens, pipeline.cubes] if not (f / "manifest.json").is_file()] == []


def test_a_manifest_says_how_an_artifact_came_about(pipeline: Workplace):
    run_id = pipeline.runs("train_tokenizers")[0].name
    for folder in ("scalar_tokenizers", "spectrum_tokenizers", "codecs"):
        manifest = json.loads((pipeline.store / "tokenizers" / folder / "manifest.json").read_text())
        assert manifest["run_id"] == run_id
        assert set(manifest) >= {"schema_version", "fingerprint", "config", "inputs", "git", "versions"}


# ----------------------------------------------------------------------------------- metrics, summary


def test_the_summary_compares_the_model_with_two_baselines(run_dir: Path):
    summary = json.loads((run_dir / "summary.json").read_text())
    assert set(summary["baselines"]) == {"marginal", "previous"}
    assert summary["steps"] == 6 and summary["epochs"] == 1 and summary["best_step"] == 6
    for modality in ("image", "scalar", "spectrum"):
        for metric in ("ce", "accuracy", "error"):
            assert math.isfinite(summary["model"][f"{metric}_{modality}"])
        assert math.isfinite(summary["baselines"]["marginal"][f"error_{modality}"])
        assert math.isfinite(summary["baselines"]["previous"][f"error_{modality}"])
    assert summary["columns"]["mag_pstotal_r"]["unit"] == "mag"
    assert summary["columns"]["mag_pstotal_r"]["mae_marginal"] > 0


def test_metrics_are_named_as_documented(run_dir: Path):
    records = read_jsonl(run_dir / "metrics.jsonl")
    names = {name for record in records for name in record} - {"step", "time"}
    assert names >= {
        "train/loss",
        "train/ce",
        "train/image",
        "train/scalar",
        "train/spectrum",
        "val/ce",
        "val/score",
        "val/ce_image",
        "val/error_spectrum",
        "val/accuracy_scalar",
        "optim/lr",
        "optim/grad_norm",
        "grad_share/scalar",
        "train/n_image",
    }
    assert {name.split("/")[0] for name in names} <= {"train", "val", "optim", "perf", "grad_share"}
    assert all(isinstance(record["step"], int) for record in records)


def test_the_vocabulary_of_the_run_is_that_of_the_model(run_dir: Path):
    spec = json.loads((run_dir / "vocab_spec.json").read_text())
    weights = load_torch(run_dir / "best_model.pt")
    assert set(weights) == {"model_state_dict", "config"}
    assert weights["config"]["vocab_size"] == spec["vocab_size"]
    assert weights["config"]["vocab_spec"] == spec
    assert all(torch.isfinite(v).all() for v in weights["model_state_dict"].values() if v.is_floating_point())


def test_validation_gives_the_same_numbers_again(run_dir: Path):
    record = next(r for r in read_jsonl(run_dir / "metrics.jsonl") if "val/score" in r)
    summary = json.loads((run_dir / "summary.json").read_text())["model"]
    first = {name.removeprefix("val/"): value for name, value in record.items() if name.startswith("val/")}
    # the only epoch's weights are the best, so the summary's evaluation repeats the validation to the bit
    shared = set(first) & set(summary)
    assert len(shared) > 100
    assert {k: first[k] for k in shared} == {k: summary[k] for k in shared}


def test_validation_does_not_depend_on_the_loss_weights(workplace: Workplace):
    scores = []
    for weights in ((), ("loss.weight_image=10", "loss.weight_scalar=0", "loss.weight_spectrum=3")):
        outcome = workplace.run("train_lm", "training.max_steps=1", "optimizer.learning_rate=1e-12", *weights)
        assert outcome.returncode == 0, outcome.stderr
        scores.append(json.loads((workplace.runs("train_lm")[-1] / "summary.json").read_text())["model"])
    for name in ("score", "ce", "error_image", "error_scalar", "error_spectrum"):
        assert scores[0][name] == pytest.approx(scores[1][name], rel=1e-5)


# --------------------------------------------------------------------------------- tokens and sequences


def test_distinct_objects_have_distinct_tokens_from_end_to_end(pipeline: Workplace):
    for tokens in TokenStore(pipeline.store):
        has = tokens.image["present"]
        rows = np.asarray(tokens.image["tokens"])[has].reshape(has.sum(), -1)
        assert len(np.unique(rows, axis=0)) == len(rows) > 10
        scalars = np.asarray(tokens.scalar["tokens"])
        assert len(np.unique(scalars, axis=0)) == len(scalars) == 60
        for group in GROUPS:
            part = tokens.spectra[group]
            spectra = np.asarray(part.tokens).reshape(-1, part.length)
            # 16 codes: two spectra that are mostly noise may look alike
            assert len(np.unique(spectra, axis=0)) > 0.6 * len(spectra), group
    packed = sequences(pipeline)
    rows = {bytes(row) for row in packed}
    assert len(rows) == len(packed) == 120


def sequences(pipeline: Workplace) -> list[np.ndarray]:
    """Token rows of all packed sequences of the survey."""
    (folder,) = (pipeline.store / "sequences").iterdir()
    rows = []
    for split in ("train", "val", "test"):
        members = load_npz(folder / f"{split}.npz")
        rows += np.split(members["tokens"], members["offsets"][1:-1])
    return rows


def test_what_an_object_lacks_is_absent(pipeline: Workplace):
    import pyarrow.parquet as pq

    for tokens in TokenStore(pipeline.store):
        table = pq.read_table(pipeline.cubes / f"datacube_{tokens.field}.parquet")
        flux = table.column("desi_flux_b").is_valid().to_numpy()
        np.testing.assert_array_equal(tokens.spectra["desi_b"].present, flux)
        cut = table.column("splus_cut_R").is_valid().to_numpy()
        assert not (tokens.image["present"] & ~cut).any() and tokens.image["present"].sum() > 10
        for part in tokens.spectra.values():
            lengths = np.diff(part.offsets)
            np.testing.assert_array_equal(lengths, np.where(part.present, part.length, 0))
    n_images = sum(int(tokens.image["present"].sum()) for tokens in TokenStore(pipeline.store))
    long = [row for row in sequences(pipeline) if len(row) > 576]
    assert len(long) == n_images  # an object without a cutout has no image tokens, not 576 zeros


def test_the_same_object_is_in_one_split_only(pipeline: Workplace):
    splits = [np.asarray(tokens.split) for tokens in TokenStore(pipeline.store)]
    ids = [np.asarray(tokens.ids) for tokens in TokenStore(pipeline.store)]
    assert len(np.unique(np.concatenate(ids))) == 120
    counts = np.bincount(np.concatenate(splits), minlength=3)
    assert counts.min() > 0
    (folder,) = (pipeline.store / "sequences").iterdir()
    packed = [len(load_npz(folder / f"{split}.npz")["offsets"]) - 1 for split in ("train", "val", "test")]
    assert packed == counts.tolist()


def test_the_decoded_scalars_are_near_the_catalogue(pipeline: Workplace):
    from astromodal.tokenizers import TokenizerSet

    book = TokenizerSet.load(pipeline.store / "tokenizers").scalar_codebook()
    for tokens in TokenStore(pipeline.store):
        column = tokens.columns.index("mag_pstotal_r")
        present = tokens.scalar["present"][:, column] & ~tokens.scalar["nondetected"][:, column]
        true = tokens.scalar["values"][present, column]
        centres = np.asarray(book.centers)[list(book.columns).index("mag_pstotal_r")]
        decoded = centres[tokens.scalar["tokens"][present, column]]
        assert np.abs(decoded - true).mean() < 0.5 * np.abs(true - true.mean()).mean()


# ---------------------------------------------------------------------------- a stage a second time


def test_encoding_again_does_nothing_and_leaves_every_byte(workplace: Workplace):
    before = contents(workplace.store / "tokens")
    outcome = workplace.run("encode")
    assert outcome.returncode == 0, outcome.stderr
    assert "2 of 2 fields are up to date" in outcome.stderr
    assert contents(workplace.store / "tokens") == before


def test_the_next_command_is_said(pipeline: Workplace):
    said = (pipeline.runs("encode")[0] / "encode.log").read_text()
    assert f"next: {shlex.join(['python', str(REPO / 'train_lm.py'), *SURVEY])}" in said
    said = (pipeline.runs("train_tokenizers")[0] / "train_tokenizers.log").read_text()
    assert f"next: {shlex.join(['python', str(REPO / 'encode.py'), *SURVEY])}" in said


def test_weights_of_a_run_start_another_one(workplace: Workplace, run_dir: Path):
    outcome = workplace.run("train_lm", "training.max_steps=1", f"init_from={run_dir}")
    assert outcome.returncode == 0, outcome.stderr
    assert "starting from the weights of" in outcome.stderr


# --------------------------------------------------------------------------------------- every option

# the real sizes of a model are measured by the benchmarks
SHRINK = ("model.d_model=32", "model.n_layers=2", "model.n_heads=2", "model.d_ff=64")


def combinations() -> list[tuple[str, ...]]:
    """As few runs as there are options of a group; every option of each group is in one of them."""
    groups = {group: options(group) for group in ("model", "loss", "optimizer", "schedule", "sequence")}
    groups["optimizer"].remove("riemannian_adam")  # for models with manifold parameters, which the transformer has not
    return [
        tuple(f"{group}={names[k % len(names)]}" for group, names in groups.items())
        for k in range(max(map(len, groups.values())))
    ]


@pytest.mark.parametrize("chosen", combinations(), ids=" ".join)
def test_every_option_trains(workplace: Workplace, chosen: tuple[str, ...]):
    outcome = launch_stage(
        "train_lm", *SURVEY, *chosen, *SHRINK, "training.max_steps=2", "training.batch_size=4", cwd=workplace.folder
    )
    assert outcome.returncode == 0, outcome.stderr
    (folder,) = workplace.runs("train_lm")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 2
    assert math.isfinite(summary["model"]["score"])


@pytest.mark.parametrize("name", ["scalar", "spectrum", "image"])
def test_every_tokenizer_can_be_fitted_alone(workplace: Workplace, name: str):
    tokenizers = workplace.store / "tokenizers"
    folders = {"scalar": "scalar_tokenizers", "spectrum": "spectrum_tokenizers", "image": "codecs"}
    before = {n: contents(tokenizers / f) for n, f in folders.items()}
    mine = [o for o in TOKENIZERS if o.startswith(f"tokenizer.{name}.")]
    outcome = launch_stage("train_tokenizers", *SURVEY, f"tokenizer={name}", *mine, "seed=5", cwd=workplace.folder)
    assert outcome.returncode == 0, outcome.stderr
    for other, folder in folders.items():
        same = contents(tokenizers / folder) == before[other]
        assert same == (other != name), other


@pytest.mark.parametrize("modalities", ["[scalar]", "[image]", "[spectrum,scalar]"])
def test_some_modalities_train_alone(workplace: Workplace, modalities: str):
    outcome = workplace.run("train_lm", f"sequence.modalities={modalities}", "training.max_steps=2")
    assert outcome.returncode == 0, outcome.stderr
    summary = json.loads((workplace.runs("train_lm")[0] / "summary.json").read_text())
    assert math.isfinite(summary["model"]["score"])


def test_a_missing_modality_can_be_a_token_instead(workplace: Workplace):
    outcome = workplace.run("train_lm", "sequence.missing=token", "training.max_steps=2")
    assert outcome.returncode == 0, outcome.stderr


def test_a_subset_of_fields_is_one_override(workplace: Workplace):
    outcome = workplace.run("train_lm", "data.fields=[SYN-0002]", "training.max_steps=2")
    assert outcome.returncode == 0, outcome.stderr
    (folder,) = workplace.runs("train_lm")
    assert "SYN-0001" not in (folder / "train_lm.log").read_text()


# ------------------------------------------------------------------------------------ sweeps, tracking


def test_a_sweep_makes_one_run_directory_per_job(workplace: Workplace):
    def draw(run, *_) -> None:  # what the pictures themselves hold is seen above
        for name in LM_FILES:
            if name.startswith("plots/"):
                (run.dir / name).parent.mkdir(exist_ok=True)
                (run.dir / name).touch()

    result = launch_stage(
        "train_lm",
        "-m",
        *SURVEY,
        *MODEL,
        "training.max_steps=2",
        "loss.weight_image=0.05,0.1",
        cwd=workplace.folder,
        draw=draw,
    )
    assert result.returncode == 0, result.stderr
    (sweep,) = (workplace.folder / "runs" / "train_lm" / "sweeps").iterdir()
    jobs = sorted(p.name for p in sweep.iterdir() if p.is_dir())
    assert jobs == ["0", "1"]
    for job, weight in zip(jobs, (0.05, 0.1), strict=True):
        record = json.loads((sweep / job / "run.json").read_text())
        assert record["status"] == "DONE" and record["job"] == job and record["run_id"] == sweep.name
        assert json.loads((sweep / job / "config.json").read_text())["loss"]["weight_image"] == weight
        assert [name for name in LM_FILES if not (sweep / job / name).is_file()] == []


def test_one_failing_job_of_a_sweep_gives_one_line_and_exit_code_1(workplace: Workplace):
    outcome = launch_stage(
        "train_lm", "-m", *SURVEY, *MODEL, "training.max_steps=1", "model.max_len=2048,100", cwd=workplace.folder
    )
    assert "1 of 2 jobs failed" in outcome.error()
    assert "job 1 (model.max_len=100) failed: ConfigError: expected sequences of at most" in outcome.stdout
    (sweep,) = (workplace.folder / "runs" / "train_lm" / "sweeps").iterdir()
    assert json.loads((sweep / "0" / "run.json").read_text())["status"] == "DONE"
    assert json.loads((sweep / "1" / "run.json").read_text())["status"] == "FAILED"


def test_two_runs_with_one_seed_are_the_same_and_weights_and_biases_mirrors_the_record(
    workplace: Workplace,
    run_dir: Path,
):
    from .test_resume import assert_same_results

    outcome = workplace.run("train_lm", "tracking=default", "tracking.wandb=offline")
    assert outcome.returncode == 0, outcome.stderr
    (folder,) = workplace.runs("train_lm")
    (mirror,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert mirror.stat().st_size > 1000
    assert not (workplace.folder / "wandb").exists()

    def plain(path: Path) -> list[dict]:
        records = read_jsonl(path / "metrics.jsonl")
        return [{k: v for k, v in r.items() if k != "time" and not k.startswith("perf/")} for r in records]

    assert plain(folder) == plain(run_dir)
    assert_same_results(run_dir, folder)
    assert json.loads((folder / "run.json").read_text())["wandb_id"] == f"train_lm-{folder.name}"
