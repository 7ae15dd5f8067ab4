"""Checkpoints. Begin with what is in one: ``state.py``.

``checkpoint.py`` has the files and the weights in them, ``saver.py`` (and ``background.py``) who writes them and when,
``resume.py`` how a run goes on from one, ``callback.py`` copies for the user.
"""
