"""A run and its directory: what was run, with what, on what, what it measured, and how it ended.

Begin with ``run.py``: every stage opens a :class:`~astromodal.runs.run.RunContext`. ``tracking.py`` mirrors its
numbers, ``progress.py`` is what a terminal shows, ``tables.py`` what a stage says at its end.
"""
