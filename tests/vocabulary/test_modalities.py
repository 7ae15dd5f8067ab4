"""The one table of modalities, and that there is no other."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

import astromodal
from astromodal.config.schema import DataConfig, LossConfig, TokenizerConfig, VocabConfig
from astromodal.errors import ConfigError
from astromodal.tokenizers import TokenizerSet
from astromodal.vocabulary.modalities import MODALITIES, Kind, Modality, Table, imported

NAMES = {"image", "scalar", "spectrum"}


@pytest.mark.parametrize("name", ["image", "scalar", "spectrum"])
def test_a_row_names_what_exists(name):
    row = MODALITIES[name]
    assert row.tokenizer_class().name == name and callable(imported(row.plot))
    sections = [{f.name for f in dataclasses.fields(c)} for c in (DataConfig, TokenizerConfig, LossConfig, VocabConfig)]
    assert row.section in sections[0] and all(name in keys for keys in sections[1:])
    assert {f"weight_{name}", f"share_{name}"} <= sections[2]


def test_orders_of_arrays_and_of_sequences():
    assert [MODALITIES.index(m) for m in ("image", "scalar", "spectrum")] == [0, 1, 2]
    assert MODALITIES.at(1).name == "scalar" and MODALITIES.at(1).kind is Kind.values
    assert MODALITIES.in_sequence()[:3] == ("scalar", "spectrum", "image")


def test_a_new_row_stands_behind_the_others_and_has_what_no_other_has():
    table = Table(*MODALITIES.values())
    row = Modality("light_curve", Kind.vectors, "a:B", "light_curves", "light_curves", "a:draw", "lc")
    table.add(row)
    table.add(row)  # a module that is imported twice
    assert table.index("light_curve") == len(MODALITIES) == len(table) - 1
    assert table.in_sequence()[-1] == "light_curve"
    for changes in ({"folder": "codecs"}, {"section": "scalars"}, {"short": "img"}, {}):
        with pytest.raises(ConfigError, match=r"no other has.*image|no other has.*scalar|no other has.*light_curve"):
            other = {"name": "x", "section": "xs", "folder": "xs", "short": "x"} if changes else {"folder": "other"}
            table.add(dataclasses.replace(row, **(other | changes)))


def test_a_set_of_tokenizers_is_a_mapping_in_the_order_of_sequences():
    tokenizers = TokenizerSet(image="i", scalar="s", spectrum=None)
    assert list(tokenizers.items()) == [("scalar", "s"), ("image", "i")] and "spectrum" not in tokenizers
    assert (tokenizers.scalar, tokenizers.spectrum, tokenizers.image) == ("s", None, "i") and not TokenizerSet()
    with pytest.raises(TypeError, match="no modality spectra"):
        TokenizerSet(spectra="x")


def test_no_other_list_of_modalities_is_in_the_code():
    """A tuple, list, set or dictionary of their names elsewhere would not know a new one."""
    found = []
    for path in sorted(Path(astromodal.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            members = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
            if {m.value for m in members if isinstance(m, ast.Constant)} >= NAMES:
                found.append(f"{path.name}:{node.lineno}")
    allowed = {"model.py", "tables.py", "writer.py", "curves.py", "report.py"}  # a default, and what differs by design
    assert {place.split(":")[0] for place in found} <= allowed, found
