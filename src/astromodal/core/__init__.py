"""The public names of ``astromodal.core``; they live in files, vocabulary, runs, machine and parallel.

A thin face: nothing of this program imports from here. Names are imported on first use.
"""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "..vocabulary.codebook": "Codebook ScalarCodebook",
        "..vocabulary.vocab": "VocabSpec build_vocab_spec",
        "..files.ids": "find_duplicates hash_ids normalize_ids",
        "..files.io": "FileLock NpzWriter append_jsonl atomic_path load_codebook load_joblib load_npz load_npz_key "
        "load_torch open_npz plain read_json read_jsonl save_joblib save_npz save_torch truncate_jsonl write_json "
        "write_text",
        "..provenance.manifest": "check_manifest fingerprint_arrays fingerprint_config fingerprint_file git_state "
        "package_versions read_manifest update_manifest write_manifest",
        "..runs.observability": "MetricsBuffer get_logger setup_logging",
        "..machine.random": "get_rng_state keyed_uniform seed_everything set_rng_state",
        "..parallel.rank": "barrier broadcast_object is_main world_size",
        "..runs.run": "RunContext make_run_id",
        "..runs.tracking": "NullTracker Tracker",
    },
)
