"""Fingerprints of arrays and configurations: 128 bits of BLAKE2b in hexadecimal.

Those of files are in :mod:`~astromodal.provenance.remembered`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ArtifactError
from ..files.json_files import plain


def new_hash() -> Any:
    """The hash that all fingerprints are made with."""
    return hashlib.blake2b(digest_size=16)


def fingerprint_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Fingerprint of names, dtypes, shapes and values, whatever the order of the mapping."""
    digest = new_hash()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if array.dtype.hasobject:
            raise ArtifactError("an array of numbers or text", got=f"dtype {array.dtype}", where=name)
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        if array.size:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def fingerprint_config(obj: Any) -> str:
    """Fingerprint of a dataclass, OmegaConf node or mapping, as sorted JSON: the order of keys is without effect."""
    text = json.dumps(plain(container(obj)), sort_keys=True, ensure_ascii=False, allow_nan=False)
    digest = new_hash()
    digest.update(text.encode())
    return digest.hexdigest()


def container(obj: Any) -> Any:
    """A dataclass or OmegaConf node as plain containers; anything else as it is."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return dataclasses.asdict(obj)
    if type(obj).__module__.startswith("omegaconf."):
        from omegaconf import OmegaConf

        return OmegaConf.to_container(obj, resolve=True, enum_to_str=True)
    return obj
