"""Text stays text: on the command line, in sweeps, in YAML files, in lists and dictionaries; and only text does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from astromodal.config import load_config
from astromodal.config.launching.register import conf_dir, register
from astromodal.config.reading.text_values import text_stays_text
from astromodal.config.reading.yaml_files import load_yaml
from astromodal.errors import ConfigError

# what is typed as a text, and is read as such
TEXTS = [
    "2026_11_30",
    "1_2",
    "1e5",
    "0x10",
    "012",
    "0001",
    "true",
    "No",
    "1.",
    ".5e3",
    "-1",
    "+1",
    "nan",
    "inf",
    "12:30",
    "2026-11-30",
    "/data/run=1",
    "/data/é",
    "/a[1]",
    "/a[1",
    "/My Data/x",
    "a$b",
    "~/x!",
    "#1",
    "it's",
    'a"b',
    "foo(1)",
    "x{y}",
    "a&b;c",
    "ÿ=ÿ",
]
KEYS = ["name", "data.root", "recipe.path", "tracking.project", "data.scalars.z.column", "+tokenizer.image.codec.name"]


def read(override: str) -> object:
    """What Hydra makes of an override."""
    return OverridesParser.create().parse_override(text_stays_text(override)).value()


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_given_to_a_key_of_text_is_that_text(text):
    assert read(f"name={text}") == text
    if not set(text) & set("'\"[]{}"):  # within a list or a dictionary these are its own
        assert read(f"data.fields=[a,{text}]") == ["a", text]
    if not set(text) & set("'\"[]{}:"):
        entry = read(f"+data.scalars={{y:{{column:{text},min:1}}}}")
        assert entry == {"y": {"column": text, "min": 1}}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_text_is_known_as_such(key):
    assert read(f"{key}=1_0") == "1_0"


@pytest.mark.parametrize(
    "override, value",
    [
        ("seed=1_0", 10),
        ("loss.weight_image=1e-3", 1e-3),
        ("training.pin_memory=true", True),
        ("loss.sample_k=null", None),
        ("resume=null", None),
        ("name=", ""),
        ("name='1_0'", "1_0"),
        ('data.root="a=b"', "a=b"),
        ("name=a\\,b", "a,b"),
        ("data.root=${oc.env:HOME}/1", "${oc.env:HOME}/1"),
        ("data.scalars.z.sentinels=[1_0,2]", [10, 2]),
        ("data.fields=null", None),
        ("data.fields=[]", []),
        ("model=tiny", "tiny"),
        ("schedule.name=wsd", "wsd"),
        ("data.fields=['1',\"2\"]", ["1", "2"]),
    ],
)
def test_numbers_switches_quotes_and_null_keep_their_meaning(override, value):
    found = read(override)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "override, values",
    [
        ("name=1_0,2_0", ["1_0", "2_0"]),
        ("name=choice(1_0,2)", ["1_0", "2"]),
        ("data.root=/a=1,/b", ["/a=1", "/b"]),
        ("tracking.tags=[1_0],[2]", [["1_0"], ["2"]]),
        ("name=sort(2_0,1_0)", ["1_0", "2_0"]),
        ("seed=1_0,2", [10, 2]),
    ],
)
def test_the_values_of_a_sweep_are_texts_each(override, values):
    found = OverridesParser.create().parse_override(text_stays_text(override))
    assert found.is_sweep_override()
    key = override.split("=")[0]
    assert [read(f"{key}={value}") for value in found.sweep_string_iterator()] == values


def test_quoting_twice_changes_nothing():
    for text in TEXTS:
        once = text_stays_text(f"name={text}")
        assert text_stays_text(once) == once


SURVEY = """
name: 2026_11_30
root: 1e5
fields: [1_000, 0001, 1e5, true, 12:30, plain]
batch_rows: 1_000
scalars:
  1_0: {column: 0x10, unit: 1e3, min: 1e1}
  off: {column: on}
"""


def test_yaml_files_keep_text_and_read_numbers(tmp_path: Path):
    for folder in ("data", "experiment", "hparams"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "2026_11.yaml").write_text(SURVEY)
    mine = "# @package _global_\nname: 1_1\nseed: 1_1\ntracking: {tags: [1_0]}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(mine)
    (tmp_path / "hparams" / "names.yaml").write_text("# @package _global_\nhydra: {sweeper: {params: {name: 1_0}}}\n")
    register()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        overrides = [
            text_stays_text("data=2026_11", frozenset({"data"})),
            "experiment=mine",
            "hparams=names",
            f"hydra.searchpath=[{tmp_path}]",
        ]
        cfg = compose("encode", overrides, return_hydra_config=True)
    assert OmegaConf.to_container(cfg.data.fields) == ["1_000", "0001", "1e5", "true", "12:30", "plain"]
    assert (cfg.data.name, cfg.data.root, cfg.data.batch_rows) == ("2026_11_30", "1e5", 1000)
    assert {k: (v.column, v.unit, v.min) for k, v in cfg.data.scalars.items()} == {
        "1_0": ("0x10", "1e3", 10.0),
        "off": ("on", "", None),
    }
    assert (cfg.name, cfg.seed, list(cfg.tracking.tags)) == ("1_1", 11, ["1_0"])
    assert dict(cfg.hydra.sweeper.params) == {"name": "1_0"}


def test_the_file_of_load_config_keeps_text(tmp_path: Path):
    (tmp_path / "my.yaml").write_text("name: 1_000\ntraining: {batch_size: 1_6}\ndata: {fields: [1_0]}\n")
    config = load_config(tmp_path / "my.yaml", overrides=["tokenizer_id=1_2"])
    assert (config.name, config.training.batch_size, list(config.data.fields)) == ("1_000", 16, ["1_0"])
    assert config.tokenizer_id == "1_2"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a: 1\nnull: 2\n", "keys that are names, got null .*, line 2"),
        (b"a: {~: 2}\n", "keys that are names, got ~"),
        (b"? [a, b]\n: 1\n", "keys that are names"),
        (b"a: 1\nb: 2\na: 3\n", "each key once, got a twice .*, line 3"),
        (b"a: [1\nb: 2\n", "expected valid YAML, got .*line 2"),
        ("é: 1\n".encode("cp1252"), "a YAML file in UTF-8, got another encoding .byte 0xe9"),
        ("a: 1\n".encode("utf-16"), "got UTF-16"),
        (b"a: !!python/object/apply:os.getcwd []\n", "expected valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(caught.value) and "x.yaml" in str(caught.value)
