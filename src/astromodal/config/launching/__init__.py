"""From a command line to a checked configuration (``launch.py``: begin there), anew or as a recorded run once more."""
