"""The loss that training uses: exact, and never with more than a chunk of logits. Begin with ``loss.py``."""
