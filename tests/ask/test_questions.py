"""Names become questions, or one clear line."""

from __future__ import annotations

import logging

import pytest

from astromodal.ask.questions import plan_questions
from astromodal.errors import ConfigError
from astromodal.sequences.names import quantities

from . import hand_built as hand


def shown(plan, name: str) -> set[str]:
    return set(next(q for q in plan.questions if q.name == name).given)


EVERYTHING = {"r", "z", "t", "xp_scale", "xp", "xp.1", "sp", "image"}


def test_by_default_every_column_is_asked_and_all_else_given():
    plan = hand.plan()
    assert [q.name for q in plan.questions] == list(hand.COLUMNS)
    for question in plan.questions:
        assert set(question.given) == EVERYTHING - {question.name}


def test_modalities_groups_and_columns_can_be_named():
    plan = hand.plan(given=["spectrum", "z"], predict=["image", "scalar"])
    assert [q.name for q in plan.questions] == [*hand.COLUMNS, "image"]
    spectra = {"xp", "xp.1", "sp", "xp_scale"}
    assert shown(plan, "image") == spectra | {"z"} and shown(plan, "z") == spectra
    assert shown(plan, "xp_scale") == spectra - {"xp_scale"} | {"z"}
    # with all stages of its code and with its scale, which is one of its properties
    assert shown(hand.plan(given=["xp"], predict=["r"]), "r") == {"xp", "xp.1", "xp_scale"}


def test_a_spectrum_is_asked_with_its_stages_and_its_scale():
    (question,) = hand.plan(predict=["xp"]).questions
    assert [part.name for part in question.parts] == ["xp", "xp.1"] and question.scale.name == "xp_scale"
    assert set(question.given) == EVERYTHING - {"xp", "xp.1", "xp_scale"}  # without it, nobody knows its scale
    assert shown(hand.plan(given=["scalar"], predict=["xp"]), "xp") == {"r", "z", "t"}
    assert shown(hand.plan(given=["scalar", "xp_scale"], predict=["xp"]), "xp") == {"r", "z", "t", "xp_scale"}
    (other,) = hand.plan(predict=["sp"]).questions
    assert other.scale is None and "xp_scale" in other.given


def test_scalars_stand_last_for_a_model_of_any_order_and_in_their_order_for_others():
    names = [segment.name for segment in hand.plan().order]
    assert names == ["xp", "xp.1", "sp", "image", "r", "z", "t", "xp_scale"]
    fixed = hand.plan("fixed", given=["before"])
    assert [segment.name for segment in fixed.order] == ["r", "z", "t", "xp_scale", "xp", "xp.1", "sp", "image"]
    assert shown(fixed, "t") == {"r", "z"} and shown(fixed, "r") == set()
    assert shown(hand.plan("fixed", given=["before"], predict=["sp"]), "sp") == EVERYTHING - {"sp", "image"}


@pytest.mark.parametrize("changes", [{}, {"given": ["image"]}, {"given": ["r", "t"], "predict": ["z"]}])
def test_a_model_of_one_order_refuses_what_stands_the_wrong_way_round(changes, caplog):
    with pytest.raises(ConfigError, match=r"behind \w+ .*sequence=random.*evaluate.given=\[before\]"):
        hand.plan("fixed", **changes)
    with caplog.at_level(logging.WARNING):
        plan = plan_questions(
            hand.layout(),
            order="fixed",
            missing="absent",
            next_types=True,
            any_order=True,
            log=logging.getLogger("test"),
            **{"given": None, "predict": None} | changes,
        )
    assert plan.questions and "do not trust" in caplog.text
    assert hand.plan("fixed", given=["r", "z"], predict=["t", "image"]).questions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict": ["imag"]}, "imag.*did you mean image"),
        ({"given": ["mag_r"], "predict": ["z"]}, "mag_r.*evaluate.given"),
        ({"given": ["xp.1"], "predict": ["z"]}, "xp.1"),
        ({"given": ["z"], "predict": ["z"]}, "something else than z"),
        ({"given": ["before", "z"]}, "alone"),
    ],
)
def test_what_cannot_be_asked_is_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        hand.plan(**changes)
    assert "\n" not in str(error.value)


def test_a_column_that_training_never_saw_is_not_asked(caplog):
    arguments = {"order": "random", "missing": "absent", "next_types": True, "given": None, "never": ["z"]}
    with caplog.at_level(logging.WARNING):
        plan = plan_questions(hand.layout(), predict=None, **arguments)
    assert [q.name for q in plan.questions] == ["r", "t", "xp_scale"]
    assert "no training object has a value: z" in caplog.text
    named = plan_questions(hand.layout(), predict=["scalar"], **arguments)
    assert [q.name for q in named.questions] == ["r", "t", "xp_scale"]
    with pytest.raises(ConfigError, match="z, which has none"):
        plan_questions(hand.layout(), predict=["z"], **arguments)


def test_models_without_a_modality_or_next_types_say_so():
    arguments = {"order": "random", "missing": "absent", "given": None, "predict": None}
    with pytest.raises(ConfigError, match="next_types=true"):
        plan_questions(hand.layout(), next_types=False, **arguments)
    spectra = hand.layout(("spectrum",))
    assert set(quantities(spectra)) == {"xp", "sp"}
    with pytest.raises(ConfigError, match="no scalar columns"):
        plan_questions(spectra, next_types=True, **arguments)
    with pytest.raises(ConfigError, match=r"modalities that the model knows \(spectrum\), got image"):
        plan_questions(spectra, next_types=True, **arguments | {"predict": ["image"]})
