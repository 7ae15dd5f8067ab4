"""The report of a comparison as one page: figures as SVG, and live ones for plotly.js, from the same numbers.

Needs the cohorts, verdicts and importances of :mod:`astromodal.compare`; used by its command. Begin reading in
:mod:`.html`, which puts the page together.
"""
