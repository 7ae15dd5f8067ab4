"""What hidden states know: linear and attention probes, embeddings, and which objects are alike.

``probes.py`` judges, ``report.py`` is the command, ``similarity.py`` searches. Uses :mod:`astromodal.ask`.
"""
