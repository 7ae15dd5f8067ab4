"""A model that grows from another one: what both know means the same to it, what is new starts as in a new model."""

from __future__ import annotations

import logging
from dataclasses import asdict

import numpy as np
import pytest
import torch

from astromodal.config.schema import ModelConfig, SequenceConfig, ValuesConfig, VocabConfig
from astromodal.errors import ArtifactError
from astromodal.files.io import plain, save_torch
from astromodal.language_model.growing import grow
from astromodal.loss.standardize import Codebooks
from astromodal.models import CausalTransformerLM
from astromodal.models.values import token_values
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import BOS, build_vocab_spec

LOG = logging.getLogger("test")
VALUES = ValuesConfig(n_features=4, errors=True, head=True)
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32}


def books(columns: dict[str, int], groups: dict[str, int], image: int, changed: str = "") -> Codebooks:
    """Codebooks that depend on names and sizes alone; that of ``changed`` is another one."""

    def entries(name: str, *shape: int) -> np.ndarray:
        rng = np.random.default_rng([*name.encode(), *shape, int(name == changed)])
        return np.sort(rng.normal(size=shape), axis=0)

    width = max(columns.values())
    centers = np.zeros((len(columns), width))
    for j, (name, n) in enumerate(columns.items()):
        centers[j, :n] = entries(name, n)
    real = np.arange(width) < np.array(list(columns.values()))[:, None]
    scalar = ScalarCodebook(tuple(columns), centers, real.astype(float), np.array(list(columns.values())))
    spectra = {name: Codebook(entries(name, n, 3)) for name, n in groups.items()}
    return Codebooks(Codebook(entries("image", image, 2)), spectra, scalar)


class Known:
    """A model and what it knows."""

    def __init__(
        self,
        columns: dict[str, int],
        groups: dict[str, int],
        image: int = 5,
        changed: str = "",
        seed: int = 0,
        max_len: int = 32,
        **sizes,
    ) -> None:
        self.books = books(columns, groups, image, changed)
        stages = {name: "image" for name in groups if name.startswith("image.")}
        self.vocab = build_vocab_spec(
            image, max(columns.values()), groups, tuple(groups), tuple(columns), list(columns.values()), stages
        )
        torch.manual_seed(seed)
        self.sizes = {**SIZES, **sizes}
        values = token_values(self.vocab, self.books, VALUES)
        self.network = CausalTransformerLM(
            self.vocab.vocab_size,
            self.vocab.n_types,
            dropout=0.0,
            max_len=max_len,
            grid_width=2,
            values=values,
            **self.sizes,
        ).eval()
        with torch.no_grad():
            for weight in self.network.parameters():
                weight.mul_(8)
        self.max_len = max_len

    def save(self, path) -> str:
        model = asdict(ModelConfig(**self.sizes, dropout=0.0, max_len=self.max_len, values=VALUES))
        config = {
            "model": model,
            "sequence": asdict(SequenceConfig()),
            "vocab": asdict(VocabConfig()),
            "grid_width": 2,
            "vocab_size": self.vocab.vocab_size,
            "n_types": self.vocab.n_types,
            "vocab_spec": self.vocab.to_dict(),
        }
        save_torch(path, {"model_state_dict": self.network.state_dict(), "config": plain(config)})
        return str(path)

    def token(self, name: str, code: int) -> tuple[int, int]:
        """Id and type of a code of a column, a group or the image."""
        if name in self.vocab.scalar_columns:
            return self.vocab.block("scalar").start + code, self.vocab.type_of_column(name)
        kind = 1 if name == "image" else self.vocab.type_of_group(name)
        return self.vocab.block(name).start + code, kind

    def logits(self, parts: list[tuple[str, int]], asked: str, n: int) -> torch.Tensor:
        """Of the first ``n`` codes of ``asked``, after BOS and the parts, with an error each."""
        pairs = [(BOS, 0), *(self.token(*part) for part in parts)]
        tokens, types = (torch.tensor([list(side)]) for side in zip(*pairs, strict=True))
        told = torch.cat([types[:, 1:], torch.tensor([[self.token(asked, 0)[1]]])], 1)
        sigma = torch.full(tokens.shape, 0.1)
        with torch.no_grad():
            state = self.network.hidden(tokens, types, next_types=told, sigma=sigma)[0, -1]
            start = self.token(asked, 0)[0]
            return self.network.head_weight[start : start + n] @ state


OLD = {"columns": {"r": 6, "z": 4}, "groups": {"xp": 5, "xp.1": 4}}
NEW = {"columns": {"g": 6, "r": 6, "t": 3, "z": 4}, "groups": {"desi": 7, "xp": 5, "xp.1": 4}}
PARTS = [("r", 3), ("xp", 4), ("xp", 0), ("xp.1", 2), ("image", 1), ("image", 3)]


@pytest.mark.parametrize("tie_head", [True, False])
def test_what_both_know_is_answered_as_before(tmp_path, caplog, tie_head):
    old, new = Known(**OLD, tie_head=tie_head), Known(**NEW, seed=1, max_len=40, tie_head=tie_head)
    start = {name: value.clone() for name, value in new.network.state_dict().items()}
    with caplog.at_level(logging.INFO):
        found = grow(new.network, new.vocab, old.save(tmp_path / "old.pt"), LOG)
    assert found.kept == ["image", "xp", "xp.1", "r", "z"] and found.fresh == ["desi", "g", "t"] and not found.gone
    assert "taken over: image, xp, xp.1, r, z; starting fresh: desi, g, t" in caplog.text
    for asked, n in (("z", 4), ("xp", 5), ("image", 5)):
        torch.testing.assert_close(new.logits(PARTS, asked, n), old.logits(PARTS, asked, n))
    for name, code in (("desi", 6), ("g", 2), ("t", 1)):  # as they were
        _, kind = new.token(name, code)
        for key in ("type_embedding.weight", "next_type_embedding.weight"):
            assert torch.equal(new.network.state_dict()[key][kind], start[key][kind])
    block = new.vocab.block("desi")
    assert torch.equal(
        new.network.token_embedding.weight[block.start : block.stop],
        start["token_embedding.weight"][block.start : block.stop],
    )


def test_another_codebook_of_the_same_name_starts_fresh(tmp_path):
    for changed in ("xp", "z", "image"):
        old, new = Known(**OLD), Known(**OLD, changed=changed, seed=1)
        start = new.network.type_embedding.weight.clone()
        found = grow(new.network, new.vocab, old.save(tmp_path / f"{changed}.pt"), LOG)
        assert found.fresh == [changed] and changed not in found.kept
        kinds = [k for k, name in enumerate(new.vocab.type_names) if name == changed]
        assert torch.equal(new.network.type_embedding.weight[kinds], start[kinds])
    parts = [part for part in PARTS if part[0] != "image"]
    torch.testing.assert_close(new.logits(parts, "z", 4), old.logits(parts, "z", 4))


def test_a_codebook_of_another_size_starts_fresh_and_what_is_gone_is_said(tmp_path):
    new = Known({"r": 6, "z": 3}, {"xp": 5}, seed=1)
    found = grow(new.network, new.vocab, Known(**OLD).save(tmp_path / "old.pt"), LOG)
    assert found.kept == ["image", "xp", "r"] and found.fresh == ["z"] and found.gone == ["xp.1"]
    assert "left behind: xp.1" in found.said()


def test_a_later_stage_of_the_image_is_taken_over_or_starts_fresh(tmp_path):
    groups = {"xp": 5, "image.1": 6}
    old, new = Known(OLD["columns"], groups), Known(OLD["columns"], {**groups, "image.2": 3}, seed=1)
    found = grow(new.network, new.vocab, old.save(tmp_path / "old.pt"), LOG)
    assert sorted(found.kept) == ["image", "image.1", "r", "xp", "z"] and found.fresh == ["image.2"] and not found.gone
    parts = [("image", 1), ("image.1", 4), ("r", 2)]
    torch.testing.assert_close(new.logits(parts, "z", 4), old.logits(parts, "z", 4))


def test_a_table_that_the_weights_do_not_have_starts_fresh_and_is_named(tmp_path):
    new, key = Known(**NEW, seed=1), "next_type_embedding.weight"
    start = new.network.state_dict()[key].clone()
    content = torch.load(Known(**OLD).save(tmp_path / "old.pt"), weights_only=True)
    del content["model_state_dict"][key]
    save_torch(tmp_path / "without.pt", content)
    found = grow(new.network, new.vocab, tmp_path / "without.pt", LOG)
    assert key in found.other and found.kept == ["image", "xp", "xp.1", "r", "z"]
    assert torch.equal(new.network.state_dict()[key], start)


def test_the_same_vocabulary_and_codebooks_are_loaded_as_ever(tmp_path):
    new = Known(**OLD, seed=1)
    before = new.network.token_embedding.weight.clone()
    assert grow(new.network, new.vocab, Known(**OLD).save(tmp_path / "old.pt"), LOG) is None
    assert torch.equal(new.network.token_embedding.weight, before)


def test_a_transformer_of_another_size_is_refused_and_nothing_changed(tmp_path):
    path = Known(**OLD).save(tmp_path / "old.pt")
    for sizes in ({"n_layers": 3}, {"d_ff": 64}, {"n_heads": 4}):
        new = Known(**NEW, **sizes)
        before = new.network.token_embedding.weight.clone()
        with pytest.raises(ArtifactError, match=r"a transformer of .* layers"):
            grow(new.network, new.vocab, path, LOG)
        assert torch.equal(new.network.token_embedding.weight, before)
    other = Known({"a": 6}, {"b": 5}, image=4)
    with pytest.raises(ArtifactError, match="of the same name and codebook, got none"):
        grow(other.network, other.vocab, path, LOG)


def test_a_vocabulary_that_the_weights_do_not_have_is_refused(tmp_path):
    from astromodal.files.io import load_torch

    old, new = Known(**OLD), Known(**NEW)
    content = load_torch(old.save(tmp_path / "old.pt"))
    content["config"]["vocab_spec"]["blocks"][0]["size"] = 10**6
    del content["config"]["vocab_spec"]["vocab_size"]
    save_torch(tmp_path / "odd.pt", content)
    with pytest.raises(ArtifactError, match=r"blocks of a vocabulary|at most"):
        grow(new.network, new.vocab, tmp_path / "odd.pt", LOG)
