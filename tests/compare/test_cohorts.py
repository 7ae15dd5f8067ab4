"""What may be compared, and what a difference is: known answers, brute force, and noise that must not be sold."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.compare.cohorts import Axis, cohorts, pareto_front, swept_axes
from astromodal.compare.importance import importance
from astromodal.compare.rundir import read_run
from astromodal.compare.runs_table import read_runs_table
from astromodal.compare.verdicts import columns_of, differences, find_reference, student_interval
from tests.compare.fake_runs import INPUTS, make_run, object_errors, sweep


def cohorts_of(folder, metric="val/score"):
    return cohorts(read_runs_table([folder]).runs, metric)


def verdicts(folder, baseline=None, metric="val/score"):
    (cohort,) = cohorts_of(folder, metric)
    return {d.group.name: d for d in differences(cohort, find_reference(cohort, baseline), n_resamples=400)}


# ------------------------------------------------------------------------------------------- cohorts


def test_runs_on_other_data_or_tokens_are_never_ranked_together(tmp_path):
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", seed=1, score=0.4, changes={"loss.ce": "block"})
    make_run(tmp_path, "other_tokens", score=0.1, inputs=INPUTS | {"scalar_tokenizer": "0" * 32})
    make_run(tmp_path, "other_stage", score=0.1, record={"stage": "encode"})
    found = cohorts_of(tmp_path)
    assert sorted(sorted(g.name for g in c.groups) for c in found) == [["a", "b"], ["other_stage"], ["other_tokens"]]
    assert [g.name for g in found[0].groups] == ["b", "a"]  # the largest cohort first, its best first


def test_tokenizer_runs_are_compared_by_their_data(tmp_path):
    """What a tokenizer stage records as inputs includes the tokenizers that it made."""
    for i in range(2):
        inputs = {"datacube_A": "d" * 32, "scalar_tokenizer": str(i) * 32}
        make_run(tmp_path, f"t{i}", inputs=inputs, record={"stage": "train_tokenizers"})
    assert len(cohorts_of(tmp_path)) == 1


def test_unfinished_runs_and_runs_without_the_metric_are_not_ranked(tmp_path):
    make_run(tmp_path, "done")
    make_run(tmp_path, "killed", score=0.1, status="RUNNING")
    (cohort,) = cohorts_of(tmp_path)
    assert [g.name for g in cohort.groups] == ["done"]
    assert [(run.record["name"], why) for run, why in cohort.left_out] == [("killed", "killed")]
    (cohort,) = cohorts_of(tmp_path, "val/nothing")
    assert not cohort.groups and {why for _, why in cohort.left_out} == {"killed", "without val/nothing"}


def test_accuracies_rank_from_the_top(tmp_path):
    for name, score in (("bad", 0.6), ("good", 0.3)):
        make_run(tmp_path, name, score=score, changes={"loss.ce": name})
    (cohort,) = cohorts_of(tmp_path, "val/accuracy_image")
    assert [g.name for g in cohort.groups] == ["good", "bad"] and cohort.better(0.7, 0.4)


def test_seeds_are_one_configuration_and_of_a_repeated_seed_the_newest_counts(tmp_path):
    for seed, score in ((0, 0.5), (1, 0.6)):
        make_run(tmp_path, "a", f"r{seed}", seed=seed, score=score)
    make_run(tmp_path, "a", "again", seed=1, score=0.7, record={"created": "2027-01-01"})
    (cohort,) = cohorts_of(tmp_path)
    (group,) = cohort.groups
    assert group.values == {0: 0.5, 1: 0.7}
    assert (group.mean, group.spread) == (pytest.approx(0.6), pytest.approx(0.1 * np.sqrt(2)))
    assert [run.record["run_id"] for run in cohort.superseded] == ["r1"]


def test_keys_that_vary_together_are_one_axis(tmp_path):
    runs = [read_run(path) for path in sweep(tmp_path, seeds=1)]
    assert swept_axes(runs) == [
        Axis(("loss.weight_image", "loss.weight_scalar")),
        Axis(("loss.sample_k",)),
        Axis(("optimizer.learning_rate",)),
    ]


# -------------------------------------------------------------------------------------------- Pareto


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_pareto_front_is_that_of_brute_force(d):
    rng = np.random.default_rng(d)
    points = rng.integers(0, 6, (60, d)).astype(float)  # many ties
    points[::13, 0] = np.nan
    expected = []
    for p in points:
        beaten = any(all(q <= p) and any(q < p) for q in points if np.isfinite(q).all())
        expected.append(bool(np.isfinite(p).all()) and not beaten)
    assert pareto_front(points).tolist() == expected and any(expected)


# ---------------------------------------------------------------------------------------- importance


def test_the_one_key_that_matters_is_found(tmp_path):
    sweep(tmp_path, seeds=2)
    (cohort,) = cohorts_of(tmp_path)
    found = importance(cohort)
    assert found.method == "forest" and found.names[0] == "loss.weight_image (and 1 with it)"
    assert found.explained > 0.9 and found.values[0] > 10 * np.abs(found.values[1:]).max()
    assert set(found.names[1:]) == {"loss.sample_k", "optimizer.learning_rate", "seed"}


def test_a_forest_that_explains_nothing_says_so(tmp_path):
    rng = np.random.default_rng(3)
    for i in range(16):
        make_run(
            tmp_path,
            f"r{i}",
            score=0.5 + rng.normal(0, 0.01),
            changes={"loss.weight_image": float(i), "loss.sample_k": 2 ** (i % 4)},
        )
    (cohort,) = cohorts_of(tmp_path)
    found = importance(cohort)
    assert found.explained <= 0 and "explain nothing" in found.says


def test_few_runs_are_judged_by_the_spread_of_means(tmp_path):
    for i, (weight, rate, score) in enumerate([(0.1, 1, 0.5), (0.1, 2, 0.52), (1.0, 1, 0.7), (1.0, 2, 0.72)]):
        make_run(tmp_path, f"r{i}", score=score, changes={"loss.weight_image": weight, "optimizer.learning_rate": rate})
    (cohort,) = cohorts_of(tmp_path)
    found = importance(cohort)
    assert found.method == "spread" and "Fewer than 8" in found.says
    assert dict(zip(found.names, found.values, strict=True)) == {
        "loss.weight_image": pytest.approx(0.2),
        "optimizer.learning_rate": pytest.approx(0.02),
    }


# --------------------------------------------------------------------------------------- differences


def pair(folder, shift, *, seeds=4, noise=0.01, with_errors=False, object_shift=None):
    """Two configurations over the same seeds, ``b`` better by ``shift``."""
    for seed in range(seeds):
        rng = np.random.default_rng([seed, 7])
        for name, gain in (("a", 0.0), ("b", shift)):
            moved = -(gain if object_shift is None or name == "a" else object_shift)
            errors = object_errors(rng, shift=moved) if with_errors else None
            make_run(
                folder,
                name,
                f"s{seed}",
                seed=seed,
                score=0.6 - gain + rng.normal(0, noise),
                errors=errors,
                changes={"loss.ce": name},
            )


@pytest.mark.parametrize("with_errors", [False, True])
def test_noise_between_seeds_is_no_difference(tmp_path, with_errors):
    pair(tmp_path, 0.0, with_errors=with_errors)
    found = verdicts(tmp_path, "a")["b"]
    assert found.verdict == "no difference" and found.common == (0, 1, 2, 3)
    assert found.seeds[0] < 0 < found.seeds[1] and (found.objects is not None) == with_errors
    assert ("without object_errors.npz" in found.why) != with_errors


@pytest.mark.parametrize("with_errors", [False, True])
def test_a_real_shift_is_found(tmp_path, with_errors):
    pair(tmp_path, 0.1, with_errors=with_errors)
    assert verdicts(tmp_path, "a")["b"].verdict == "better"
    worse = verdicts(tmp_path)["a"]  # against the best, which is b
    assert worse.verdict == "worse" and worse.mean == pytest.approx(0.1, abs=0.02)
    if with_errors:
        assert worse.objects.difference == pytest.approx(0.1, abs=0.01) and worse.objects.n_objects == 300


def test_a_gain_needs_both_the_seeds_and_the_objects(tmp_path):
    """Seeds that agree by luck do not make up for objects that say nothing, nor the other way round."""
    pair(tmp_path / "objects_only", 0.0, noise=0.05, with_errors=True, object_shift=0.1)
    found = verdicts(tmp_path / "objects_only", "a")["b"]
    assert found.objects.excludes_zero and found.verdict == "no difference"
    pair(tmp_path / "seeds_only", 0.1, with_errors=True, object_shift=0.0)
    found = verdicts(tmp_path / "seeds_only", "a")["b"]
    assert found.seeds[1] < 0 and not found.objects.excludes_zero and found.verdict == "no difference"


def test_one_seed_is_judged_by_objects_only_and_without_these_not_at_all(tmp_path):
    pair(tmp_path / "with", 0.1, seeds=1, with_errors=True)
    found = verdicts(tmp_path / "with", "a")["b"]
    assert found.verdict == "better" and found.seeds is None and "luck of the training" in found.why
    pair(tmp_path / "without", 0.1, seeds=1)
    assert verdicts(tmp_path / "without", "a")["b"].verdict == "cannot tell"
    pair(tmp_path / "other", 0.1, seeds=1, with_errors=True)
    assert verdicts(tmp_path / "other", "a", "val/accuracy_image")["b"].objects is None  # objects cannot tell that


def test_only_common_seeds_and_common_objects_are_compared(tmp_path):
    pair(tmp_path, 0.1, seeds=3, with_errors=True)
    make_run(tmp_path, "b", "lone", seed=9, score=9.0, changes={"loss.ce": "b"})
    half = object_errors(np.random.default_rng(0), shift=-0.1)
    path = next((tmp_path / "b" / "s0").glob("object_errors.npz"))
    np.savez(path, **{k: v[::-2] for k, v in half.items()})  # half of the objects, in another order
    found = verdicts(tmp_path, "a")["b"]
    assert found.common == (0, 1, 2) and found.mean == pytest.approx(-0.1, abs=0.02)
    assert found.objects.n_objects == 150 and found.objects.difference == pytest.approx(-0.1, abs=0.01)


def test_many_comparisons_widen_the_intervals(tmp_path):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for i in range(12):
            make_run(
                tmp_path,
                f"n{i}",
                f"s{seed}",
                seed=seed,
                score=0.5 + rng.normal(0, 0.01),
                changes={"loss.weight_image": float(i)},
            )
    found = verdicts(tmp_path)
    assert {d.verdict for d in found.values()} == {"no difference"}  # although the reference is the luckiest of 12


def test_the_interval_over_seeds_holds_its_level_where_a_bootstrap_does_not():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5):
        ends = np.array([student_interval(rng.normal(size=n)) for _ in range(1500)])
        wrong = ((ends[:, 0] > 0) | (ends[:, 1] < 0)).mean()
        assert 0.03 < wrong < 0.07, n
    assert student_interval(np.array([1.0])) is None


def test_which_columns_make_up_a_metric():
    arrays = [{"ce": 0, "error_image": 0, "error_scalar": 0}, {"ce": 0, "error_scalar": 0}]
    assert columns_of("val/score", arrays) == ["error_scalar"]
    assert columns_of("val/score", [{"ce": 0}]) == ["ce"] and columns_of("val/ce", arrays) == ["ce"]
    assert columns_of("val/error_image", arrays) is None and columns_of("val/accuracy_image", arrays) is None
