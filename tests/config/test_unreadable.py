"""Configuration files that are no YAML in UTF-8: one line with the file, the place and the repair."""

import pytest
from hydra import compose, initialize_config_dir

from astromodal.config.launching.register import register
from astromodal.config.reading.explain import explain

FILES = {
    "cp1252": ("name: Gr\u00fcn\n".encode("cp1252"), "YAML file in UTF-8, got another encoding (byte 0xfc)"),
    "utf16": ("name: x\n".encode("utf-16"), "YAML file in UTF-8, got UTF-16"),
    "open": (b"a: 1\nb: [1,\n", "line 3"),
    "tab": (b"a:\n\tb: 1\n", "line 2"),
    "null_key": (b"a: {null: 3}\n", "keys that are names"),
    "control": (b"a: \x01\n", "valid YAML"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_named(tmp_path, name):
    content, expected = FILES[name]
    (tmp_path / f"{name}.yaml").write_bytes(content)
    register()
    with initialize_config_dir(config_dir=str(tmp_path), version_base="1.3"), pytest.raises(Exception) as caught:
        compose(name)
    said = explain(caught.value)
    assert said and "\n" not in said and f"{name}.yaml" in said and expected in said and "to repair" in said
