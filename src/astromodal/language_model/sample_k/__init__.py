"""How many positions the loss needs: error of the gradient and cost at several ``sample_k`` (begin: ``study.py``)."""
