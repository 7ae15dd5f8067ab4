"""The process that this is: CPU threads, signals that end it, memory that it used, and its randomness.

Needs nothing of the rest, and no heavy package; everything else may use it. Begin with ``threads.py``.
"""
