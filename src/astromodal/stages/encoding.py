"""Token files of every field: the stage ``encode``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from ..config.reading.containers import to_object
from ..config.schema import Config
from ..files.io import write_json
from ..parallel.rank import dealt, is_last, rank, world_size
from ..runs import tables
from ..tokenizers import TokenizerSet
from ..tokens import TokenStore, encode_survey
from ..tokens.encode import of_all_shares
from ..vocabulary.modalities import MODALITIES
from .wiring import begin, open_survey, say_next


def encode(cfg: DictConfig) -> None:
    """Encode every field that is not up to date."""
    config = to_object(cfg, Config)
    with begin(cfg, config, "encode") as run:
        tokenizers = TokenizerSet.load(Path(config.paths.store) / "tokenizers")
        for name, tokenizer in tokenizers.items():
            if MODALITIES[name].on_device:
                tokenizer.use(config.hardware)
        for name, fingerprint in tokenizers.fingerprints.items():
            run.add_input(f"{name}_tokenizer", fingerprint)
        cubes, splits = open_survey(config, run)
        names = [cube.field for cube in cubes]
        summary = encode_survey(
            dealt(cubes, lambda cube: cube.n_rows),
            tokenizers,
            splits,
            config.data,
            config.paths.store,
            workers=config.hardware.workers,
            overwrite=config.encode.overwrite,
            whole=names,
            run=run,
        )
        if world_size() > 1:
            last = is_last(Path(config.paths.store) / "tokens", run.id)
            whole = of_all_shares(config.paths.store, names, run.log) if last else None
            if whole is None:
                run.log.info("process %d of %d has done its share; the last one reports", rank() + 1, world_size())
                return
            summary = whole
            run.dir.mkdir(parents=True, exist_ok=True)
        run.add_output("tokens", TokenStore.of(config).fingerprint)
        write_json(run.dir / "encoding.json", summary)
        figures = {name: summary[name] for name in ("rows", "bytes", "seconds")}
        run.tracker.summary(figures | tables.flatten(summary["found"], "found/"))
        run.log.info("%s", tables.encoding_table(summary))
        say_next(run, cfg, f"tokens of {summary['rows']} objects in {config.paths.store}/tokens")
