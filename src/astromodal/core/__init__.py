"""What every other part stands on: safe files, provenance, ids, randomness, runs and their metrics.

Nothing here imports torch, wandb, pyarrow or OmegaConf before it is needed.
"""

from .codebook import Codebook, ScalarCodebook
from .ids import find_duplicates, hash_ids, normalize_ids
from .io import (
    FileLock,
    NpzWriter,
    append_jsonl,
    atomic_path,
    load_codebook,
    load_joblib,
    load_npz,
    load_npz_key,
    load_torch,
    open_npz,
    plain,
    read_json,
    read_jsonl,
    save_joblib,
    save_npz,
    save_torch,
    truncate_jsonl,
    write_json,
    write_text,
)
from .manifest import (
    check_manifest,
    fingerprint_arrays,
    fingerprint_config,
    fingerprint_file,
    git_state,
    package_versions,
    read_manifest,
    update_manifest,
    write_manifest,
)
from .observability import MetricsBuffer, get_logger, setup_logging
from .random import get_rng_state, keyed_uniform, seed_everything, set_rng_state

# The function rank stays in core.rank: here it would hide the module of that name.
from .rank import barrier, broadcast_object, is_main, world_size
from .runs import RunContext, make_run_id
from .tracking import NullTracker, Tracker
from .vocab import VocabSpec, build_vocab_spec

__all__ = [
    "Codebook",
    "FileLock",
    "MetricsBuffer",
    "NpzWriter",
    "NullTracker",
    "RunContext",
    "ScalarCodebook",
    "Tracker",
    "VocabSpec",
    "append_jsonl",
    "atomic_path",
    "barrier",
    "broadcast_object",
    "build_vocab_spec",
    "check_manifest",
    "find_duplicates",
    "fingerprint_arrays",
    "fingerprint_config",
    "fingerprint_file",
    "get_logger",
    "get_rng_state",
    "git_state",
    "hash_ids",
    "is_main",
    "keyed_uniform",
    "load_codebook",
    "load_joblib",
    "load_npz",
    "load_npz_key",
    "load_torch",
    "make_run_id",
    "open_npz",
    "normalize_ids",
    "package_versions",
    "plain",
    "read_json",
    "read_jsonl",
    "read_manifest",
    "save_joblib",
    "save_npz",
    "save_torch",
    "seed_everything",
    "set_rng_state",
    "setup_logging",
    "truncate_jsonl",
    "update_manifest",
    "world_size",
    "write_json",
    "write_manifest",
    "write_text",
]
