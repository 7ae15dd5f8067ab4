"""Levels of finite scalar quantization, checked with the configuration."""

from __future__ import annotations

import pytest

from astromodal.config.checks.levels import check_image_levels, check_levels, check_patch_levels
from astromodal.errors import ConfigError


@pytest.mark.parametrize(
    "levels, message",
    [
        ([], "levels of 2 or more"),
        ([4, 1], r"got \[4, 1\]"),
        ([256, 257], "at most 65536 codes, got 65792"),
    ],
)
def test_levels_that_are_no_code_are_refused(levels, message):
    def of_patches(levels):
        check_patch_levels(levels, {"a": 1}, 0.0)

    for check in (check_levels, lambda x: check_image_levels(x, len(x)), of_patches):
        with pytest.raises(ConfigError, match=message):
            check(levels)


def test_images_need_as_many_levels_as_latent_channels():
    check_image_levels(None, 2)
    check_image_levels([8, 8], 2)
    check_image_levels([8, 8], None)
    with pytest.raises(ConfigError, match=r"got vectors of 2 .*to repair: \S+latent_channels=3, or 2 levels"):
        check_image_levels([8, 8, 8], 2)


def test_patches_need_two_levels_per_pixel():
    check_patch_levels(None, {"a": 32}, 0.0)
    check_patch_levels([64, 8], {"a": 1, "b": 1}, 0.25)
    check_patch_levels([64, 8], {"a": 2}, 0.0)
    with pytest.raises(ConfigError, match=r"got vectors of 10 \(b: flux and precision of 5 pixels per patch\)"):
        check_patch_levels([64, 8], {"a": 1, "b": 5}, 0.25)
