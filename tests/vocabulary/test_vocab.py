"""The vocabulary: blocks without gaps, types, and the way to a file and back."""

import json

import pytest

from astromodal.core import VocabSpec, build_vocab_spec
from astromodal.errors import ArtifactError, ConfigError
from astromodal.vocabulary.vocab import SPECIALS


def _vocab():
    return build_vocab_spec(10, 6, {"b": 4, "r": 3}, scalar_columns=("z", "mag"), n_bins=(6, 5))


def test_the_documented_call_has_the_documented_sizes():
    vocab = build_vocab_spec(v_image=2048, v_scalar=1024, v_spectra=2048)
    assert len(vocab.spectrum_groups) == 5 and vocab.vocab_size == 5 + 2048 + 1024 + 5 * 2048
    assert (vocab.base_image, vocab.base_scalar, vocab.base_spectrum) == (5, 2053, 3077)


def test_blocks_follow_the_specials_without_gap_or_overlap():
    vocab = _vocab()
    ids = [i for block in vocab.blocks for i in range(block.start, block.stop)]
    assert ids == list(range(len(SPECIALS), vocab.vocab_size))
    assert [b.name for b in vocab.blocks] == ["image", "scalar", "b", "r"]


def test_every_type_has_one_name_and_one_modality():
    vocab = _vocab()
    assert vocab.type_names == ("special", "image", "b", "r", "z", "mag")
    assert len(vocab.modality_of_type()) == vocab.n_types == 6
    assert [vocab.type_names[vocab.type_of_group(g)] for g in "br"] == ["b", "r"]
    assert vocab.type_of_column("z") == vocab.first_column_type == 4
    assert vocab.modality_of_type()[vocab.type_of_column("mag")] == "scalar"


def test_sizes_may_be_one_number_a_list_or_a_mapping():
    groups = ("b", "r")
    same = [build_vocab_spec(1, 1, v, groups) for v in (4, [4, 4], {"r": 4, "b": 4})]
    assert same[0] == same[1] == same[2]


def test_a_spec_survives_json_and_a_damaged_one_is_refused():
    vocab = _vocab()
    values = json.loads(json.dumps(vocab.to_dict()))
    assert VocabSpec.from_dict(values) == vocab
    with pytest.raises(ArtifactError):
        VocabSpec.from_dict({k: v for k, v in values.items() if k != "blocks"})
    with pytest.raises(ArtifactError, match="vocab_size"):
        VocabSpec.from_dict(values | {"vocab_size": 3})


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError):
        build_vocab_spec(-1, 1, 1)
    with pytest.raises(ConfigError, match="2 sizes"):
        build_vocab_spec(1, 1, [1], ("a", "b"))
    with pytest.raises(ConfigError, match="n_bins"):
        build_vocab_spec(1, 1, 1, scalar_columns=("z",), n_bins=(1, 2))
    with pytest.raises(ConfigError, match="nothing"):
        _vocab().block("nothing")
    assert not _vocab().has_block("nothing") and _vocab().has_block("r")
