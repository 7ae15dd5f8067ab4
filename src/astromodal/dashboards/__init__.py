"""Weights & Biases after the fact: runs made without it are sent there, and views that compare runs are made there."""
