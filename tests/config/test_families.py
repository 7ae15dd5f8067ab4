"""A codec, a quantizer, an optimizer, a form of the loss and an arrangement of files: each one file and one YAML."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from astromodal.config.families import CODECS, FORMS, OPTIMIZERS, SOURCES, Family
from astromodal.config.schema import Layout, LossForm, OptimizerName
from astromodal.errors import ConfigError

PLUGIN = """
from dataclasses import dataclass, field
from pathlib import Path

from astromodal.config.growth import add_codec, add_form, add_optimizer, add_quantizer, add_source
from astromodal.config.ranges import ranged
from astromodal.config.schema import CodecTrainingConfig, KMeansConfig


@dataclass
class MeansConfig:
    name: str = "means"
    cells: int = ranged(4, least=1)
    training: CodecTrainingConfig = field(default_factory=CodecTrainingConfig)


@dataclass
class SignsConfig(KMeansConfig):
    name: str = "signs"
    n_codes: int = 2


def sgd(model, config, precision):
    import torch

    return torch.optim.SGD(model.parameters(), lr=config.learning_rate)


def absolute(logits, codes, entries, options):
    mean = logits.softmax(-1) @ entries[:, 0].to(logits)
    return (mean - entries[codes, 0].to(logits)).abs()


def absolute_slope(p, rows):
    centers = rows.of_column(rows.entries)
    residual = (p * centers).sum(1) - rows.at_code(rows.entries)
    return residual.abs(), residual.sign()[:, None] * centers


def one_folder(root):
    from astromodal.data.sources.layouts import Found

    found = sorted(Path(root).glob("*.rows"))
    return Found({p.stem: [p] for p in found}, "rows") if found else None


add_codec("means", "my_codec:Means", MeansConfig, dims=(2,))
add_quantizer("signs", "my_codec:Signs", SignsConfig)
add_optimizer("sgd", "my_family:sgd")
add_form("absolute", "my_family:absolute", "my_family:absolute_slope", ordered=True)
add_source("rows", "my_family:one_folder")
add_source("rows", "my_family:one_folder")  # once more changes nothing
"""
CODEC = """
from astromodal.codecs.base import Codec
from astromodal.quantizers.kmeans import KMeans


class Means(Codec):
    name = "means"

    def __init__(self, config, array_shape):
        super().__init__()
        self.config, self.array_shape = config, array_shape

    latent_shape = property(lambda self: (self.array_shape[0], self.config.cells, self.config.cells))

    def encode(self, x, valid):
        import torch

        return torch.nn.functional.adaptive_avg_pool2d(x * valid, self.config.cells)

    def decode(self, latents):
        import torch

        return torch.nn.functional.interpolate(latents, self.array_shape[1:])


class Signs(KMeans):
    name = "signs"
"""
YAML = {
    "tokenizer/image/codec/means.yaml": "defaults:\n  - /codec_schema/means@_here_\n  - _self_\n\ncells: 8\n",
    "tokenizer/image/quantizer/signs.yaml": "defaults:\n  - /quantizer_schema/signs@_here_\n  - _self_\n",
    "optimizer/sgd.yaml": "defaults:\n  - adamw\n  - _self_\n\nname: sgd\nlearning_rate: 0.5\n",
    "loss/absolute.yaml": "defaults:\n  - combined\n  - _self_\n\nscalar:\n  form: absolute\n",
}
PROGRAM = """
import sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from astromodal.config.checks.bounds import check_value
from astromodal.config.launching.register import conf_dir, register
from astromodal.config.plugins import import_plugins
from astromodal.errors import ConfigError

here = Path(sys.argv[1])
import_plugins(["my_family"])
register()
given = [f"hydra.searchpath=[file://{here / 'conf'}]", "plugins=[my_family]", "run_id=x", "run_dir=x", "tokenizer_id=x"]
chosen = ["tokenizer/image/codec=means", "tokenizer/image/quantizer=signs", "data.layout=rows"]
with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
    tokenizers = compose("train_tokenizers", [*given, *chosen])
    lm = compose("train_lm", [*given, "optimizer=sgd", "loss=absolute"])

from astromodal.codecs import build_codec, codec_from_dict
from astromodal.config.checks.loss_choices import check_form
from astromodal.config.reading.containers import to_object
from astromodal.config.schema import Config
from astromodal.data.sources.layouts import find_fields
from astromodal.loss.forms import values
from astromodal.loss.fused.forms import Rows, value_and_grad
from astromodal.optim.optimizers import build_optimizer
from astromodal.quantizers import build_quantizer

config = to_object(tokenizers, Config)
codec = build_codec(config.tokenizer.image.codec, (3, 16, 16))
assert codec(torch.ones(2, 3, 16, 16), torch.ones(2, 3, 16, 16)).eq(1).all() and codec.latent_shape == (3, 8, 8)
assert codec_from_dict(codec.to_dict()).latent_shape == (3, 8, 8)
try:
    check_value("tokenizer.image.codec.cells", 0)
except ConfigError as error:
    assert "tokenizer.image.codec.cells >= 1" in str(error)
else:
    raise AssertionError("no range")
assert build_quantizer(config.tokenizer.image.quantizer).name == "signs"

(here / "cubes").mkdir()
(here / "cubes" / "F1.rows").touch()
found = find_fields(config.data, str(here / "cubes" / "datacube_{field}.parquet"))
assert found.layout == "rows" and list(found.fields) == ["F1"]

config = to_object(lm, Config)
optimizer = build_optimizer(torch.nn.Linear(2, 1), config.optimizer)
assert type(optimizer) is torch.optim.SGD and optimizer.param_groups[0]["initial_lr"] == 0.5

check_form("scalar", config.loss.scalar)
try:
    check_form("image", config.loss.scalar)
except ConfigError as error:
    assert "absolute, which needs entries in an order" in str(error)
else:
    raise AssertionError("a form of ordered values for images")
logits, codes = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 1])
entries = torch.tensor([[-1.0], [0.0], [0.5], [2.0]], dtype=torch.float64)
readable = values(config.loss.scalar, logits, codes, entries)
(slope,) = torch.autograd.grad(readable.sum(), logits)
rows = Rows(codes, entries.t(), torch.zeros(5, dtype=torch.int64), [])
fused, gradient = value_and_grad(config.loss.scalar.form, logits.detach().log_softmax(1), rows)
assert torch.allclose(fused, readable) and torch.allclose(gradient, slope)
print("all of them")
"""


def test_each_family_takes_a_row_from_a_plugin_and_its_yaml(tmp_path: Path) -> None:
    """In a process of its own: what a plugin has added stays."""
    for name, text in {"my_family.py": PLUGIN, "my_codec.py": CODEC, "program.py": PROGRAM}.items():
        (tmp_path / name).write_text(text)
    for name, text in YAML.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    paths = [str(Path(__file__).resolve().parents[2] / "src"), str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "program.py", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "all of them"


def test_what_a_row_names_is_there():
    for family in (CODECS, OPTIMIZERS, FORMS, SOURCES):
        for row in family.values():
            assert not row.place or callable(row.made()), row
    for row in FORMS.values():  # the default has a path of its own in the fused loss
        assert row.name == "expectation" or callable(row.fact("slope") or row.fact("gradient")), row


def test_the_names_of_the_schema_are_those_of_the_tables():
    assert list(OPTIMIZERS) == [name.value for name in OptimizerName]
    assert list(FORMS) == [form.value for form in LossForm]
    assert {*SOURCES, "auto"} == {layout.value for layout in Layout}


def test_a_name_stands_for_one_thing():
    family = Family("thing")
    family.add("a", "math:floor", facts=1)
    family.add("a", "math:floor", facts=1)
    with pytest.raises(ConfigError, match=r"a thing whose name no other has, got a \(math:ceil\)"):
        family.add("a", "math:ceil", facts=1)
