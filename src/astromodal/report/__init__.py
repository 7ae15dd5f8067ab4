"""Pictures of a run, and of what the tokenizers keep and lose."""
