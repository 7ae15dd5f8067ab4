"""How many positions the loss needs: the error of the gradient and the cost at several ``sample_k`` (``study.py``: begin there)."""
