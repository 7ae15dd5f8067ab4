"""The ternary VAE of all 19,683 ternary operations, laid out as its document has it.

``models``, ``config``, ``losses``, ``geometry``, ``observability`` and ``training.callbacks`` hold the public
names; ``experiment`` is what ``train_tokenizers.py experiment=ternary_vae`` runs.
"""
