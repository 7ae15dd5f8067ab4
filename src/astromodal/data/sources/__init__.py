"""Where rows come from: data as astronomers hold it, as batches with the columns that ``data.*`` names.

:mod:`.layouts` looks at ``data.root`` and says which files are which field (a file each, folders of part files, a HATS
catalogue); :mod:`.parquet` and :mod:`.tables` read them, :mod:`.nested` finds nested columns by dotted name,
:mod:`.units` compares units. Used by :mod:`astromodal.data.datacube`; begin reading there, then in :mod:`.layouts`.
:mod:`.hats_out` writes catalogues for others.
"""
