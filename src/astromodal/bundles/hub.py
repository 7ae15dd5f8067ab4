"""Bundles on a model hub, through the package ``huggingface_hub``, which is imported only here and only when asked for.

Of a repository only what its manifest names is fetched, so that nothing else of it is ever on the disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, ArtifactMissingError, ConfigError
from ..files.bundle_files import MANIFEST, check_bundle, read_names
from .archive import SUFFIX

PREFIX = "hf://"
MAX_BYTES = 1 << 38  # of all files of a bundle: more is no model of this program
_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


def parse(name: str) -> tuple[str, str | None]:
    """Repository and revision.

    Raises:
        ConfigError: another form.

    >>> parse("hf://org/name@v1")
    ('org/name', 'v1')
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigError("hf://<org>/<name> or hf://<org>/<name>@<revision>", got=name)
    return found[1], found[2]


def _package() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(
            "the package huggingface_hub, for hf://", got="none", repair="pip install 'astromodal[hub]'"
        ) from error
    return huggingface_hub


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Errors of the hub and of the network are one line."""
    try:
        yield
    except (ArtifactError, ConfigError):
        raise
    except Exception as error:  # its own classes differ between versions
        text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        repair = "check the name, the revision, the network and the login"
        raise ArtifactMissingError(
            f"{what} on the hub", got=f"{type(error).__name__}: {text[:200]}", repair=repair
        ) from error


def _endpoint() -> str | None:
    """Another hub than the usual one; the package reads the variable only once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def download(name: str) -> tuple[Path, Path]:
    """The folder of a bundle on the hub, in the hub's cache, and the folder that its links may lead to.

    Raises:
        ConfigError: not the name of a repository, or no huggingface_hub.
        ArtifactMissingError: it cannot be had. ArtifactError: it is no bundle.
    """
    repository, revision = parse(name)
    hub, options = _package(), {"endpoint": _endpoint()}
    with _one_line(f"the bundle {name}"):
        manifest = Path(hub.hf_hub_download(repository, MANIFEST, revision=revision, **options))
        files = read_names(manifest.parent)
        if (total := sum(size for size, _ in files.values())) > MAX_BYTES:
            raise ArtifactError(f"a bundle of at most {MAX_BYTES} bytes", got=total, where=name)
        commit = manifest.parent.name  # of the cache: all files are of one commit, whatever is pushed meanwhile
        for file in files:
            hub.hf_hub_download(repository, file, revision=commit, **options)
    folder = manifest.parent
    return folder, folder.parents[1]


def check_pushable(repository: str, to: Path | None = None) -> None:
    """Refuse what :func:`upload` would refuse, before a bundle is made.

    Raises:
        ConfigError: not the name of a repository, or no huggingface_hub.
    """
    parse(_prefixed(repository))
    if to is not None and to.suffix == SUFFIX:
        raise ConfigError("a folder to be pushed", got="one file", where=to, repair="--to without .zip")
    _package()


def _prefixed(repository: str) -> str:
    return repository if repository.startswith(PREFIX) else PREFIX + repository


def upload(folder: Path, repository: str, *, private: bool = False) -> str:
    """Put a bundle on the hub; returns where it is.

    Raises:
        ConfigError: not the name of a repository, or no huggingface_hub.
        ArtifactError: the folder is no whole bundle. ArtifactMissingError: the hub refuses.
    """
    repository, revision = parse(_prefixed(repository))
    hub = _package()
    check_bundle(folder)
    names = [MANIFEST, *read_names(folder)]
    with _one_line(f"a place for {repository}"):
        api = hub.HfApi(endpoint=_endpoint())
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            allow_patterns=names,
            commit_message="A model exported by astromodal",
        )
    return str(getattr(done, "commit_url", repository))
