"""Spectra to codes and back: patches per group and a codebook, or a learned codec. Begin with ``tokenizer.py``."""
