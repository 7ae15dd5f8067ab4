"""The program ``astromodal COMMAND``; ``--help`` says which commands there are."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from astromodal.errors import ConfigError
from astromodal.machine.program import program

STAGES = {  # name -> stage, and what it does; arguments are Hydra's overrides
    "cubes": ("build_datacubes", "datacubes from a catalogue, images and spectra"),
    "tokenize": ("train_tokenizers", "fit tokenizers on datacubes"),
    "encode": ("encode", "token files of every field"),
    "train": ("train_lm", "train the transformer"),
    "ask": ("evaluate", "ask a trained model, write the catalogue, judge it"),
}
COMMANDS = {  # name -> module of astromodal.commands, and what it does
    "inspect": ("inspect", "what is in a file, a folder or a catalogue, and a conf/data/<name>.yaml that reads it"),
    "judge": ("judge", "judge answers again, or those of several runs together"),
    "probe": ("probe", "what hidden states know of a column, and embeddings"),
    "similar": ("similar", "the objects that are most like an object"),
    "compare": ("compare", "runs against each other: table, figures, verdicts"),
    "diff": ("diff", "what differs between two runs"),
    "sample-k": ("sample_k", "which loss.sample_k is enough"),
    "export": ("export", "a trained run as a bundle: one folder that needs nothing else"),
    "hats": ("hats", "answers or tokens of a run as a HATS catalogue, which LSDB reads"),
    "wandb": ("wandb", "send runs to Weights & Biases afterwards, and save a view there"),
}


class _Parser(argparse.ArgumentParser):
    """Mistakes on the command line are one line with exit code 1, like all others."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError.plain(f"{message}; see --help")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Only its own module is imported."""
    from astromodal.config.launching.launch import one_line_errors

    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else "--help"
    if name in STAGES:
        _stage(STAGES[name][0], given[1:])
        return
    with one_line_errors("nothing was changed"):
        if name in ("-h", "--help"):
            print(_usage())
            return
        if name == "--version":
            print(import_module("astromodal").__version__)
            return
        known = [*STAGES, *COMMANDS]
        if name not in COMMANDS:
            from astromodal.config.reading.explain import nearest

            raise ConfigError(f"a command among {', '.join(known)}", got=name, repair=nearest(name, known))
    module = import_module(f"astromodal.commands.{COMMANDS[name][0]}")
    with one_line_errors(getattr(module, "FAILED", "nothing was changed")):
        parser = _Parser(
            prog=f"{program()} {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(parser)
        module.run(parser.parse_args(given[1:]))


def _stage(stage: str, overrides: Sequence[str]) -> None:
    """A stage as its script runs it."""
    from astromodal.config.launching.launch import launch

    def task(cfg: Any) -> Any:
        return getattr(import_module("astromodal.stages"), stage)(cfg)

    sys.argv[1:] = overrides
    launch(stage, task, _STAGE_HELP.format(stage=stage))


def _usage() -> str:
    width = max(map(len, (*STAGES, *COMMANDS)))
    lines = [f"usage: {program()} COMMAND [--help]", "", "with KEY=VALUE, as the script of the same stage:"]
    lines += [f"  {name:{width}}  {text} ({stage}.py)" for name, (stage, text) in STAGES.items()]
    lines += ["", "with arguments:", *(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())]
    return "\n".join(lines)


_STAGE_HELP = (
    "The stage {stage} with the configuration of conf/{stage}.yaml and these overrides, as {stage}.py runs it."
)

if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
