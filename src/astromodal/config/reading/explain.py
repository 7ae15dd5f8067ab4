"""One line for each way in which Hydra or OmegaConf can refuse a configuration."""

from __future__ import annotations

import re
import shlex
import traceback
from dataclasses import is_dataclass
from typing import Any

from ...errors import ConfigError, UserError
from .key_names import all_keys, nearest, unknown_key, unknown_option
from .text_values import quoted

__all__ = ["all_keys", "explain", "nearest", "schema_of"]


def explain(error: BaseException) -> str | None:
    """A single line for configuration errors and for :class:`UserError`, None for anything else."""
    chain = _chain(error)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
    for link in chain:
        if isinstance(link, AssertionError) and "Unexpected type for root" in str(link):
            return str(_below_null(link))
        if isinstance(link, AttributeError) and "object_type=NoneType" in str(link):
            return str(_below_null(link, "={…} in place of null"))
    folder = next((found for link in chain if (found := _no_folder(link)) is not None), None)
    if folder is not None:
        return str(folder)
    missing = _missing_plugin("\n".join(str(link) for link in chain))
    if missing is not None:
        return str(missing)
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if not any(isinstance(link, (HydraException, OmegaConfBaseException)) for link in chain):
        return None
    unread = next((link for link in chain if isinstance(link, OverrideParseException)), None)
    if unread is not None:
        return str(_unread(unread))
    text = "\n".join(str(link) for link in chain)
    return str(_new_entry(text) or _unknown_option(text) or _unknown_key(text) or _wrong_value(text) or _plain(error))


def _chain(error: BaseException | None) -> list[BaseException]:
    links = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links


def _unread(error: Any) -> UserError:
    """``+x=a=b``: what Hydra's grammar has no words for, and the quotes that it wants."""
    key, _, value = error.override.partition("=")
    message = str(error).split("See https")[0].strip()
    repair = shlex.quote(f"{key}={quoted(value)}")
    return UserError.plain(
        f"configuration: {message} in {error.override}; to repair: quotes for Hydra within quotes "
        f"for the shell, {repair}"
    )


def _no_folder(error: BaseException) -> ConfigError | None:
    """The folder of a run, which Hydra makes before any code of this program runs."""
    if not isinstance(error, OSError) or error.filename is None:
        return None
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    caller = next((name for name in reversed(modules) if name.split(".")[0] not in ("pathlib", "os", "shutil")), "")
    if caller.split(".")[0] != "hydra":
        return None
    return ConfigError(
        "a folder for the run that can be made",
        got=error.strerror,
        where=error.filename,
        repair="set paths.runs to a folder that you can write to",
    )


def _missing_plugin(text: str) -> ConfigError | None:
    """``hydra/launcher=slurm`` without the package that brings the launcher, or without Slurm."""
    if 'Could not detect "srun"' in text:
        return ConfigError(
            "a machine of a Slurm cluster",
            got="one without srun",
            where="hydra/launcher",
            repair="hydra/launcher=local",
        )
    found = re.search(r"Could not (?:load|find) 'hydra/launcher/(submitit|joblib)", text)
    if not found:
        return None
    package = f"hydra-{found[1]}-launcher"
    return ConfigError(
        f"the package {package}", got="it is not installed", where="hydra/launcher", repair=f"pip install {package}"
    )


def _below_null(error: Exception, what: str = " below one that is null") -> ConfigError:
    """``tokenizer=image tokenizer.scalar.n_bins=16``, or ``tokenizer.scalar={n_bins:16}``: OmegaConf trips.

    Args:
        what: was set; OmegaConf's error does not name the key.
    """
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "update")
    key = next((str(frame.f_locals["key"]) for frame in frames if "key" in frame.f_locals), "a key")
    return ConfigError(
        "a section that is not null, to set a key in it",
        got=f"{key}{what}",
        repair="leave the key out, or choose an option that has the section",
    )


def _new_entry(text: str) -> ConfigError | None:
    """``+data.scalars.photz_z={min:0}`` or ``tokenizer.spectrum.patch_sizes.desi_b=8``: how a dictionary gets an entry.

    OmegaConf makes typed entries (columns, bands) only from the dictionary that they belong to.
    """
    found = re.search(r"Error merging override \+?([\w.]+)=", text)
    entry = re.search(r"Invalid type assigned: dict is not a subclass of \w+\..*?full_key: (\w+)", text, re.DOTALL)
    if found and entry and f".{entry[1]}" in found[1]:
        parent, _, below = found[1].partition(f".{entry[1]}")
        inside = "{" + below.lstrip(".") + ":…}" if below else "{…}"
        return ConfigError(
            "a new entry together with its dictionary", got=found[1], repair=f"'+{parent}={{{entry[1]}:{inside}}}'"
        )
    found = re.search(r"is not in struct\s+full_key: (\S+)\s+reference_type=Dict\[\w+, (\w+)\]", text)
    if found:
        parent, _, name = found[1].rpartition(".")
        new = f"+{found[1]}=…" if found[2] in ("int", "float", "str") else f"'+{parent}={{{name}:{{…}}}}'"
        return ConfigError(f"an entry of {parent}", got=name, repair=f"check the name; a new one: {new}")
    return None


def _unknown_option(text: str) -> ConfigError | None:
    """``model=smal``: the option, what there is, and the nearest."""
    found = re.search(r"Could not find '([^']+)'\s+Available options in '([^']+)':\s+((?:\s*\S+\n?)+)", text)
    if found:
        option = found[1].split("/")[-1]
        options = found[3].split("Config search path")[0].split()
        return unknown_option(option, options, found[2])
    found = re.search(r"Could not override '([^']+)'", text) or re.search(r"In '[^']*': Could not find '([^']+)'", text)
    if found:
        return unknown_key(found[1].split("@")[0], "key or group")
    return None


def _unknown_key(text: str) -> ConfigError | None:
    """``loss.weight_imag=1``: the key and the nearest one."""
    found = re.search(r"Key '([^']+)' (?:is )?not in '?([\w.]+)'?", text) or re.search(
        r"Key '([^']+)' is not in struct", text
    )
    if not found:
        return None
    full = re.search(r"full_key: (\S+)", text)
    return unknown_key(full[1] if full else found[1])


def _wrong_value(text: str) -> ConfigError | None:
    """``training.epochs=many``: the key, the type, the value."""
    value = re.search(r"Value '([^']*)'(?: of type '([^']*)')? could not be converted to (\w+)", text)
    enum = re.search(r"Invalid value '([^']*)', expected one of \[([^\]]*)\]", text)
    full = re.search(r"full_key: (\S+)", text)
    where = full[1] if full else None
    if enum:
        options = [o.strip() for o in enum[2].split(",")]
        return ConfigError(f"one of {', '.join(options)}", got=enum[1], where=where, repair=nearest(enum[1], options))
    if value:
        return ConfigError(
            f"a value of type {value[3]}", got=repr(value[1]), where=where, repair=f"{where}=<{value[3].lower()}>"
        )
    if "is not Optional" in text or "not optional" in text.lower():
        return ConfigError("a value", got="null", where=where, repair=f"{where} cannot be switched off with null")
    return None


def _plain(error: BaseException) -> UserError:
    text = " ".join(str(error).split("\n\n")[0].split("\n")) or type(error).__name__
    text = re.sub(r"\s*(full_key|object_type|reference_type)[:=]\s*\S+", "", text)
    return UserError.plain(f"configuration: {text.strip()}")


def schema_of(node: Any) -> type | None:
    """The dataclass behind a configuration node, or None."""
    from omegaconf import OmegaConf

    kind = OmegaConf.get_type(node)
    return kind if isinstance(kind, type) and is_dataclass(kind) else None
