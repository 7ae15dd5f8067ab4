"""A trained model answers: from a question in names to posteriors in physical units, object by object.

``questions.py`` reads the question, ``prefixes.py`` what the model is shown, ``engine.py`` asks, ``posterior.py`` and
``drawing.py`` turn tokens into quantities, ``prediction.py`` does it for a survey. Begin with ``prediction.py``. Judged
by :mod:`astromodal.judge`.
"""
