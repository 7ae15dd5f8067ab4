"""Commands beside the scripts: ``python -m astromodal COMMAND``; ``--help`` says which there are."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from astromodal.errors import ConfigError

COMMANDS = {  # name -> module of astromodal.commands, and what it does
    "export": ("export", "a trained run as a bundle: one folder that needs nothing else"),
    "hats": ("hats", "answers or tokens of a run as a HATS catalogue, which LSDB reads"),
    "inspect": ("inspect", "what is in a file, a folder or a catalogue, and a conf/data/<name>.yaml that reads it"),
}


class _Parser(argparse.ArgumentParser):
    """Mistakes on the command line are one line with exit code 1, like all others."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError.plain(f"{message}; see --help")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Only its own module is imported."""
    from astromodal.config.launching.launch import one_line_errors

    given = list(sys.argv[1:] if arguments is None else arguments)
    with one_line_errors("nothing was changed"):
        name = given[0] if given else "--help"
        if name in ("-h", "--help"):
            print(_usage())
            return
        if name not in COMMANDS:
            from astromodal.config.reading.explain import nearest

            raise ConfigError(f"a command among {', '.join(COMMANDS)}", got=name, repair=nearest(name, list(COMMANDS)))
        module = import_module(f"astromodal.commands.{COMMANDS[name][0]}")
        parser = _Parser(prog=f"python -m astromodal {name}", description=module.__doc__)
        module.add_arguments(parser)
        module.run(parser.parse_args(given[1:]))


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: python -m astromodal COMMAND [--help]", "", *lines])


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
