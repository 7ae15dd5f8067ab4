"""The commands of the program ``astromodal``: one module per command, the only places that read arguments.

Each has ``add_arguments(parser)`` and ``run(options)``; ``astromodal/__main__.py`` has the table of their names. The
stages (tokenize, encode, train, ask, cubes) take Hydra's overrides instead and are the same functions as the scripts
call.
"""
