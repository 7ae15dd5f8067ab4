"""One training of the transformer: model, data, loss and loop put together (``run.py``: begin there).

Beside it what only this training has: baselines on its tokens, the question as a score, gradient shares, examples
drawn, and ``sample_k/``, how many positions the loss needs. ``trainer.py`` is the same from Python.
"""
