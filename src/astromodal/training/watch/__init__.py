"""What watches a training: numbers that are written down, and trouble that is named when it comes.

``recording.py`` writes metrics, ``guards.py`` ends a training that cannot go on and ``debug_bundle.py`` keeps what it
was made of.
"""
