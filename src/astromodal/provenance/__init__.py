"""What artifacts were made from: fingerprints of files, arrays and configurations, and the manifests that hold them.

``manifest.py`` is where to begin; ``remembered.py`` reads each large file once per change; ``sealed.py`` has JSON files
that later stages decide by; ``lineage.py`` tells Weights & Biases. Used by whatever makes or reads an artifact.
"""
