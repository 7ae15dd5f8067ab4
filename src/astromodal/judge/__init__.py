"""Answers against the sky: figures with intervals, calibration, baselines, limits.

``judge.py`` computes, ``report.py`` writes, ``baselines/`` has what a model has to beat. Begin with ``judge.py``.
"""
