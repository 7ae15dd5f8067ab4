"""From datacubes over tokenizers and tokens to models, as artifacts of Weights & Biases.

An artifact here is a name and a fingerprint: nothing is uploaded, however large the files are. Its version is made
from the fingerprint alone, so that what one run wrote and another one read is the same version, on any machine.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .manifest import fingerprint_config

_CUBE = "datacube_"
_OWN = ("sequences",)  # packed by the run that reads them: no other run knows them
_ALIAS = 12  # characters of a fingerprint


@dataclass(frozen=True)
class Link:
    """Something that a run reads or writes: ``kind`` is dataset, tokenizer, tokens, model or data."""

    name: str
    kind: str
    fingerprint: str


def links(values: Mapping[str, Any], survey: str) -> list[Link]:
    """Inputs or outputs of ``run.json`` as artifacts; all cubes together are one.

    >>> [(a.name, a.kind) for a in links({"datacube_A": "0", "datacube_B": "1", "image_tokenizer": "2"}, "sky")]
    [('sky-image_tokenizer', 'tokenizer'), ('sky-datacubes', 'dataset')]
    """
    cubes = {name: str(value) for name, value in values.items() if name.startswith(_CUBE)}
    found = {name: str(value) for name, value in values.items() if name not in cubes and name not in _OWN}
    if cubes:
        found["datacubes"] = fingerprint_config(cubes)
    survey = re.sub(r"[^\w.-]", "-", survey)
    return [Link(f"{survey}-{name}"[:128], _kind(name), value) for name, value in found.items()]


def _kind(name: str) -> str:
    known = {"datacubes": "dataset", "tokens": "tokens", "model": "model"}
    return "tokenizer" if name.endswith("_tokenizer") else known.get(name, "data")


def send(run: Any, record: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Tell ``run`` (of Weights & Biases) what ``run.json`` says that it read and wrote. Returns how many artifacts."""
    survey = str((config.get("data") or {}).get("name") or "data")
    inputs, outputs = (links(record.get(key) or {}, survey) for key in ("inputs", "outputs"))
    for link in inputs:
        _use(run, _artifact(link), [link.fingerprint[:_ALIAS]])
    for link in outputs:
        run.log_artifact(_artifact(link), aliases=["latest", link.fingerprint[:_ALIAS]])
    return len(inputs) + len(outputs)


def _artifact(link: Link) -> Any:
    import wandb

    artifact = wandb.Artifact(link.name, type=link.kind, metadata={"fingerprint": link.fingerprint})
    with contextlib.redirect_stderr(io.StringIO()):  # it would warn that it cannot compute the checksum itself
        artifact.add_reference(f"astromodal:{link.kind}/{link.fingerprint}", name="fingerprint", checksum=False)
    return artifact


def _use(run: Any, artifact: Any, aliases: list[str]) -> None:
    """What ``run.use_artifact`` does, in the background: that one waits for the server, and refuses to work offline."""
    if hasattr(run, "_log_artifact"):
        run._log_artifact(artifact, aliases=aliases, is_user_created=True, use_after_commit=True)
    else:  # not part of W&B's public interface: it may go
        run.use_artifact(artifact, aliases=aliases)
