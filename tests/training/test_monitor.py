"""What a validation may measure is known before it, so a monitor that does not exist costs no step."""

from __future__ import annotations

import pytest

from astromodal.errors import ConfigError
from astromodal.training.watch.monitor import check_monitor
from astromodal.vocabulary.vocab import build_vocab_spec

VOCAB = build_vocab_spec(8, 4, {"xp": 6}, scalar_columns=("r", "specz_z"))
ALL = ("scalar", "spectrum", "image")


@pytest.mark.parametrize(
    "monitor",
    [
        "val/score",
        "score",
        "val/ce",
        "val/error_image",
        "val/accuracy_xp",
        "val/ce_specz_z",
        "val/mae_r",
        "val/observed_error_scalar",
        "val/crps_scalar",
    ],
)
def test_what_is_measured_may_be_monitored(monitor):
    check_monitor(monitor, VOCAB, ALL)


@pytest.mark.parametrize(
    "monitor, near",
    [
        ("val/scor", "did you mean val/score"),
        ("val/mae_specz", "did you mean val/mae_specz_z"),
        ("val/error_imag", "did you mean val/error_image"),
        ("train/loss", ""),
        ("val/mae_xp", ""),
    ],
)
def test_what_is_not_is_refused_with_the_nearest(monitor, near):
    with pytest.raises(ConfigError, match=rf"got {monitor} .training\.monitor.*{near}"):
        check_monitor(monitor, VOCAB, ALL)


def test_a_modality_that_no_sequence_has_is_not_measured():
    with pytest.raises(ConfigError, match="val/error_image"):
        check_monitor("val/error_image", VOCAB, ("scalar", "spectrum"))
