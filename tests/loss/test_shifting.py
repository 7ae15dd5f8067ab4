"""What a model is called with, from whole sequences."""

from __future__ import annotations

import pytest
import torch

from astromodal.errors import ConfigError
from astromodal.loss.shifting import model_inputs, shift


def batch(**more) -> dict[str, torch.Tensor]:
    tokens = torch.tensor([[1, 8, 9, 2]])
    return {"tokens": tokens, "types": tokens + 10, "attn_mask": tokens > 0, **more}


def test_errors_go_with_the_tokens_they_are_of_and_with_the_targets():
    sigma = torch.tensor([[0.0, 0.1, 0.2, 0.3]])
    part = shift(batch(sigma=sigma))
    assert torch.equal(part["sigma"], sigma[:, :-1]) and torch.equal(part["target_sigma"], sigma[:, 1:])
    assert torch.equal(model_inputs(part, True, True)[1]["sigma"], sigma[:, :-1])
    assert "sigma" not in model_inputs(part, True, False)[1]


def test_a_model_that_reads_errors_needs_them():
    with pytest.raises(ConfigError, match=r"errors of the tokens.*with_sigma=True"):
        model_inputs(shift(batch()), True, True)
