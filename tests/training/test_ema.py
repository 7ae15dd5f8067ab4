"""The exponential moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from astromodal.errors import ArtifactError, ConfigError
from astromodal.training.ema import ParameterAverage


def test_it_follows_the_formula_with_its_warm_up() -> None:
    model = nn.Linear(3, 2)
    average = ParameterAverage(model, 0.99)
    expected = model.weight.detach().clone()
    for t in range(200):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        decay = min(0.99, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        average.update()
    torch.testing.assert_close(average.state_dict()["shadow"]["weight"], expected, rtol=1e-4, atol=1e-5)


def test_after_a_short_run_it_is_not_mostly_the_initial_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = ParameterAverage(model, 0.999)
    nn.init.ones_(model.weight)
    for _ in range(20):
        average.update()
    assert average.state_dict()["shadow"]["weight"].item() > 0.95


def test_the_block_holds_the_average_and_gives_the_weights_back_even_after_an_error() -> None:
    model = nn.Linear(3, 2)
    average = ParameterAverage(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1)
    own = model.weight.detach().clone()
    with pytest.raises(RuntimeError), average.applied():
        torch.testing.assert_close(model.weight, own - 1)
        raise RuntimeError
    assert torch.equal(model.weight, own)


def test_tied_weights_are_averaged_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied()
    average = ParameterAverage(model, 0.5)
    average.update()
    with average.applied():
        assert model.head.weight is model.embedding.weight
        assert set(model.state_dict()) == {"embedding.weight", "head.weight"}


def test_state_goes_round_and_that_of_another_model_is_refused() -> None:
    model = nn.Linear(3, 2)
    average = ParameterAverage(model, 0.9)
    average.update()
    state = average.state_dict()
    other = ParameterAverage(nn.Linear(3, 2), 0.9)
    other.load_state_dict(state)
    assert other.n_updates == 1 and torch.equal(other.state_dict()["shadow"]["weight"], state["shadow"]["weight"])
    with pytest.raises(ArtifactError, match="other parameters"):
        ParameterAverage(nn.Bilinear(2, 2, 2), 0.9).load_state_dict({"n_updates": 0, "shadow": {"first": None}})


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="ema_decay"):
        ParameterAverage(nn.Linear(1, 1), decay)
