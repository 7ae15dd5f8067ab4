"""Checkpoints: what is in one (``resume.py``), how it is written and found (``checkpoint.py``, ``background.py``).

How a run directory is brought back to where a checkpoint stands is in ``rewind.py``.
"""
