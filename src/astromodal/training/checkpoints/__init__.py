"""What is in a checkpoint (``resume.py``), how it is written and found (``checkpoint.py``, ``background.py``), and how a run
directory is brought back to where it stands (``rewind.py``)."""
