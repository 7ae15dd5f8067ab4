"""Several processes: workers of one command, ranks of one training, and a model divided among ranks.

Begin with ``each.py``: one function over many jobs, as every stage that maps over fields shares its work out;
``pools.py`` is who does it (processes here, Dask, Ray). ``rank.py`` is light too; ``distributed.py`` (process
group and reductions), ``sharded.py`` (FSDP2) and ``heartbeat.py`` need torch. Used by everything that reads or writes
fields, by the loss and by the loop.
"""
