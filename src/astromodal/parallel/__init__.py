"""Several processes: workers of one command, ranks of one training, and a model divided among ranks.

``rank.py`` and ``workers.py`` are light; ``distributed.py`` (process group and reductions), ``sharded.py`` (FSDP2) and
``heartbeat.py`` need torch. Used by the loss and the loop, by encoding and by the synthetic sky.
"""
