"""The loss: cross-entropy plus the distance between expected and true codebook vectors.

``forms.py`` has each form as one readable function, ``reference.py`` the loss term by term from logits, ``fused/`` the
same without logits in memory, and ``language_model.py`` what the training loop is given. ``sampling.py`` chooses
positions.
"""
