"""What a person wrote, in YAML or on a command line, read with the schema in hand; and one line for what is wrong."""
