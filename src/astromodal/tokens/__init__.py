"""Token files: one per field and modality, written by ``encode.py`` and read in parts by what trains on them."""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "store": "FieldTokens TokenStore",
        "writer": "FieldWriter token_paths",
        "field": "encode_field",
        "encode": "encode_survey",
    },
)
