"""From token files to batches: which parts a sequence has, packed sequences, batches of similar length."""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "collate": "BucketSampler SequenceLoader",
        "packed": "PackedSequences",
        "layout": "Segment SequenceLayout build_layout build_vocabulary",
        "dataset": "SequenceDataset",
        "packing": "build_sequences",
    },
)
