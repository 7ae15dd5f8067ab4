"""What all pictures share: panels, colours and PNG files (``panels.py``), the curves of a run, and SVG for pages.

Pictures of one subject stand with that subject (``judge/plots.py``, ``probe/plots.py``, ``compare/page/figures.py``).
"""
