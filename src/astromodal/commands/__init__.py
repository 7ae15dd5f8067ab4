"""One module per command of ``python -m astromodal``, each with ``add_arguments(parser)`` and ``run(options)``."""
