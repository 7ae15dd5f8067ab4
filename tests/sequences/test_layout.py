"""The layout: order and length of a sequence, and what is refused before any work."""

import pytest

from astromodal.config.schema import VocabConfig
from astromodal.errors import ArtifactMissingError, ConfigError
from astromodal.sequences import SequenceLayout, build_layout, build_vocabulary
from astromodal.vocabulary.vocab import build_vocab_spec
from tests.tokens.fake_survey import FakeTokenizers, survey_config

EVERYTHING = ["scalar", "spectrum", "image"]


def test_the_longest_sequence_is_the_sum_of_its_parts():
    layout = build_layout(FakeTokenizers(), EVERYTHING, 64)
    assert layout.max_length == 1 + 3 + (6 + 4) + 4 + 1
    assert [s.name for s in layout.segments] == ["r", "u", "z", "bp", "rp", "image"]
    assert len({s.type for s in layout.segments}) == 6  # a type of its own for each part
    assert layout.arithmetic() == "19 = 1 (BOS) + 3 (scalar columns) + 6 (bp) + 4 (rp) + 4 (image) + 1 (EOS)"


def test_the_order_is_the_configured_one():
    layout = build_layout(FakeTokenizers(), ["image", "scalar"], 64)
    assert [s.name for s in layout.segments] == ["image", "r", "u", "z"]


def test_a_layout_that_does_not_fit_is_refused_with_the_arithmetic_and_the_keys_to_change():
    build_layout(FakeTokenizers(), EVERYTHING, 19)
    with pytest.raises(ConfigError) as caught:
        build_layout(FakeTokenizers(), EVERYTHING, 18)
    for text in (
        "model.max_len=18",
        "19 = 1 (BOS) + 3 (scalar",
        "6 (bp)",
        "patch_size",
        "sequence.modalities",
        "max_len=19",
    ):
        assert text in str(caught.value)


def test_an_unknown_modality_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'spectra'.*did you mean spectrum\?"):
        build_layout(FakeTokenizers(), ["scalar", "spectra"])
    with pytest.raises(ConfigError, match="once"):
        build_layout(FakeTokenizers(), ["scalar", "scalar"])
    with pytest.raises(ConfigError, match="at least one part"):
        build_layout(FakeTokenizers(names=("scalar",)), ["image"])


def test_what_the_survey_lacks_is_left_out_and_what_was_not_fitted_is_an_error(tmp_path):
    data = survey_config(tmp_path)
    tokenizers = FakeTokenizers(names=("scalar", "spectrum"))
    with pytest.raises(ArtifactMissingError, match=r"tokenizer=image, or set sequence\.modalities=\[scalar,spectrum\]"):
        build_layout(tokenizers, EVERYTHING, data=data)
    data.images = None
    assert build_layout(tokenizers, EVERYTHING, data=data).image_length == 0


def test_configured_sizes_may_enlarge_a_block_but_not_shrink_it():
    assert build_vocabulary(FakeTokenizers()).vocab_size == 5 + 64 + 32 + 2 * 16
    assert build_vocabulary(FakeTokenizers(), VocabConfig(image=100)).block("image").size == 100
    with pytest.raises(ConfigError, match=r"vocab\.scalar of at least 32"):
        build_vocabulary(FakeTokenizers(), VocabConfig(scalar=31))


def test_the_default_survey_fits_into_the_default_model_and_single_pixels_do_not():
    vocab = build_vocab_spec(2048, 1024, 1024, ("b", "r", "z"), scalar_columns=[f"c{i}" for i in range(40)])

    def layout(patch):
        lengths = {"b": -(-2751 // patch), "r": -(-2326 // patch), "z": -(-2881 // patch)}
        return SequenceLayout(vocab, tuple(EVERYTHING), vocab.scalar_columns, lengths, 576, 2048)

    assert layout(32).max_length == 2 + 40 + 86 + 73 + 91 + 576
    with pytest.raises(ConfigError, match=r"8576 = 1 \(BOS\)"):
        layout(1)
