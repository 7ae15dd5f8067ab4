"""What is in a file, a folder or a catalogue that nobody has described yet, and a configuration that reads it.

:mod:`.statistics` looks at some rows of every column, :mod:`.roles` guesses from names, types and values what a column
is, :mod:`.proposal` writes that as a ``conf/data/<name>.yaml``. Used by ``astromodal inspect``. Guesses are
said with their reasons: a person reads the proposal before it is used.
"""
