"""Values that cannot be, alone or together, refused before any work starts. ``validate.py`` calls the others."""
