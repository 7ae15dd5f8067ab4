"""Runs against runs: a table, what differs, whether it is noise, and one page with figures.

``rundir.py`` reads a run directory, ``cohorts.py`` says which runs may be compared, ``verdicts.py`` which is better,
``page/`` is the page.
"""
