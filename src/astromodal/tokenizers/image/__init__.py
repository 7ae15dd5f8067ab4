"""Cutouts to codes and back: an autoencoder and a codebook. Begin with ``tokenizer.py``."""
