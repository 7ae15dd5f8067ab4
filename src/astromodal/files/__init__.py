"""Files that are whole or not there, and readers that never execute what a file says and never fill the memory.

``atomic.py`` is where to begin: every file of this program is written through it. ``npz.py``, ``json_files.py``,
``torch_files.py`` and ``safe_pickle.py`` read what others wrote; ``io.py`` chooses among them. Used by every part that
keeps something.
"""
