"""From a command line to a checked configuration, with errors of one line.

``--help`` is answered before Hydra is imported (its own help costs 0.8 s with many groups). Hydra composes the
configuration; its errors, and those of this program, are shortened to one line and end with exit code 1.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ...errors import ConfigError, UserError, printable
from ...machine.signals import Stopped, stops_raised
from ...machine.threads import use_threads
from ..reading.conf_files import conf_dir
from .slurm import join_step

EXAMPLES = {
    "build_datacubes": (
        "cubes=desi cubes.root=/data/desi data.root=/data/cubes",
        "hardware.n_processes=2",
        "cubes.fields.healpix_order=5",
    ),
    "train_tokenizers": ("tokenizer=image", "data=splus data.root=/data/cubes", "-m tokenizer.scalar.n_bins=256,1024"),
    "encode": ("data=splus data.root=/data/cubes", "hardware.n_processes=2", "encode.overwrite=true"),
    "train_lm": ("loss.weight_image=0.2 model=tiny", "-m loss.weight_image=0.05,0.1,0.2", "resume=auto"),
    "evaluate": (
        "evaluate.run=runs/train_lm/default/<run_id>",
        "evaluate.given=[spectrum] evaluate.predict=[scalar]",
        "evaluate.given=[before] evaluate.splits=[val,test]",
    ),
}


def launch(stage: str, task: Callable[[Any], Any], doc: str | None) -> None:
    """Run ``task(cfg)`` with the configuration of ``stage`` and the overrides of the command line.

    Args:
        stage: name of the primary configuration, ``conf/<stage>.yaml``.
        doc: the script's docstring, printed by ``--help``.
    """
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        print(_help(stage, doc or ""))
        return
    join_step(stage)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra raises, and the one line is ours
    if not _first_process():
        # under torchrun the first process writes the files, and says which job begins
        sys.argv += ["hydra.output_subdir=null", "hydra/hydra_logging=none"]
    from ..plugins import import_plugins, plugins_of
    from .command_line import checked
    from .continued import continued
    from .rerun import rerun
    from .run_id import run_id

    again = "with resume=auto" if stage == "train_lm" else "what was finished is kept"
    with one_line_errors(again, say=_first_process()):
        sys.argv[1:] = continued(rerun(_flags_first(sys.argv[1:]), stage), stage)
        import_plugins(plugins_of(sys.argv[1:]))
        _one_mode(sys.argv[1:], stage)
        sys.argv[1:] = checked(sys.argv[1:], stage)
    if "-m" in sys.argv[1:]:
        _hand_over(run_id())
        again = f"or go on: python {stage}.py -m sweep.resume=<folder of the sweep>"

    def job(cfg: Any) -> Any:
        from ..checks.validate import validate

        logging.getLogger("astromodal").propagate = False  # the run has its own log; Hydra's would repeat it
        _stay_here()
        valid = False
        try:
            validate(cfg, stage, _task_overrides())
            valid = True
            use_threads(cfg.hardware.n_threads)
            return _comparable(task(cfg), stage)
        except UserError as error:
            remove_if_unused(_output_dir())
            if _is_sweep():
                # at once; the table repeats it at the end
                print(f"{_which_process()}error in job {_output_dir().name}: {error}", file=sys.stderr)
                raise
            _stop(error, say=valid or _first_process())  # what is wrong with the configuration is wrong for all
        finally:
            if _is_sweep():
                _forget(sys.exception())

    with one_line_errors(again):
        import hydra  # after the help, and after what is wrong at first sight

        from .register import compose_once, register

        register()
        compose_once()
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=stage)(job)()


@contextmanager
def one_line_errors(again: str, say: bool = True) -> Iterator[None]:
    """Block in which what the user can repair is one line and exit code 1.

    An interruption is one line and exit code 130, a signal of a queue one line and 128 + its number.

    Args:
        again: what running an interrupted command again means.
        say: whether this process prints the line.
    """
    try:
        with stops_raised():
            yield
    except KeyboardInterrupt:
        _stop(f"interrupted; run the same command again ({again})", say and _first_process(), 130)
    except Stopped as stop:
        _stop(f"stopped by {stop}; run the same command again ({again})", say and _first_process(), stop.exit_code)
    except Exception as error:
        from ..reading.explain import explain

        message = explain(error)
        if message is None or os.environ.get("ASTROMODAL_TRACEBACK"):
            raise
        _stop(message, say)


def _flags_first(arguments: list[str]) -> list[str]:
    """``-m`` before the overrides: between them, Hydra's parser takes those after it for mistakes."""
    others = [a for a in arguments if a not in ("-m", "--multirun")]
    return others if len(others) == len(arguments) else ["-m", *others]


def _one_mode(arguments: list[str], stage: str) -> None:
    """Refuse to show a configuration and to sweep at once, which Hydra answers with a traceback."""
    shown = [a for a in arguments if a in ("--cfg", "-c", "--info", "-i") or a.startswith(("--cfg=", "--info="))]
    if shown and "-m" in arguments:
        raise ConfigError(
            f"-m or {shown[0]}",
            got="both",
            where="command line",
            repair=f"python {stage}.py -m … preview=true shows the jobs of a sweep",
        )


def _forget(error: BaseException | None) -> None:
    """Give back what a job held before the next one begins in this process.

    The launcher keeps the error of a job, and with its traceback every frame: model, batches and optimizer.
    """
    import gc
    import traceback

    if error is not None:
        traceback.clear_frames(error.__traceback__)
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # compiled code of the job's model
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _stop(message: object, say: bool = True, code: int = 1) -> NoReturn:
    if say:
        print(printable(f"{_which_process()}error: {message}"), file=sys.stderr)
    raise SystemExit(code) from None


def _hand_over(run_id: str) -> None:
    """What processes of a launcher (joblib, Slurm) need to find the package, and the folder of the sweep."""
    package = str(Path(__file__).resolve().parents[3])
    os.environ["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["ASTROMODAL_RUN_ID"] = run_id


def _first_process() -> bool:
    """Whether this is the first of the processes that torchrun has started, or the only one."""
    return os.environ.get("RANK", "0") == "0" or int(os.environ.get("WORLD_SIZE", "1")) < 2


def _which_process() -> str:
    return "" if _first_process() else f"[rank {os.environ['RANK']}] "


def _output_dir() -> Path:
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def remove_if_unused(folder: Path) -> None:
    """Remove a run directory that holds nothing but Hydra's own files: what was refused leaves no run behind."""
    if {path.name for path in folder.glob("*")} == {".hydra"}:
        shutil.rmtree(folder, ignore_errors=True)


def _task_overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task)


def _is_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def _stay_here() -> None:
    """With ``hydra.job.chdir=true`` too, a path means what it meant where the command was given."""
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.get().job.chdir:
        os.chdir(HydraConfig.get().runtime.cwd)


def _comparable(figure: Any, stage: str) -> Any:
    """What a job returns; a sweeper from outside, which chooses the next values by it, needs a number.

    Raises:
        ConfigError: there is none.
    """
    from hydra.core.hydra_config import HydraConfig

    ours = ("BasicSweeper", "AstromodalSweeper")
    if figure is None and _is_sweep() and not HydraConfig.get().sweeper._target_.endswith(ours):
        raise ConfigError(
            f"a figure of {stage}.py to compare jobs by",
            got="none",
            where="hydra/sweeper",
            repair="leave hydra/sweeper out: the jobs are then run as they are listed",
        )
    return figure


def _help(stage: str, doc: str) -> str:
    """The script's docstring, the groups with their options (read from the folder), and examples."""
    conf = conf_dir()
    lines = [doc.strip(), "", "Groups (GROUP=OPTION):"]
    for group in sorted(p for p in conf.iterdir() if p.is_dir() and p.name not in ("hydra", "local")):
        options = sorted(p.stem for p in group.glob("*.yaml"))
        if options:
            lines.append(f"  {group.name:<12} {' | '.join(options)}")
    lines += [
        f"  {'/'.join(g.relative_to(conf).parts):<24} {' | '.join(sorted(p.stem for p in g.glob('*.yaml')))}"
        for g in sorted((conf / "tokenizer").glob("*/*"))
        if g.is_dir()
    ]
    lines += [
        "",
        "Keys (GROUP.KEY=VALUE): see conf/ and src/astromodal/config/schema/, or --cfg job.",
        "",
        "Examples:",
    ]
    lines += [f"  python {stage}.py {example}" for example in EXAMPLES[stage]]
    lines += ["", "-m runs a sweep over comma-separated values; --hydra-help tells Hydra's own flags."]
    return "\n".join(lines)
