"""What a token id means: blocks of the vocabulary (``vocab.py``), and the entries behind the ids (``codebook.py``).

Written by tokenizers, read by sequences, models and the loss.
"""
