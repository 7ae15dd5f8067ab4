"""Optimizers and learning-rate schedules. ``optimizers.py`` is where a configuration becomes an optimizer: begin there.

Muon and Riemannian Adam are in modules of their own. Used by the training loop.
"""
