"""The denoising VAE of species checklists, laid out as its document has it.

``models``, ``data`` and ``training`` hold the public names; ``experiment`` is what
``train_tokenizers.py experiment=ebird_vae`` runs.
"""
