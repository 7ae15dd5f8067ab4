"""Cutouts of objects from FITS images: tiles of the sky (:mod:`.tiles`), a file per object (:mod:`.stamps`).

What belongs to an image, its zero point, weights, mask and WCS, is in :mod:`.companions`. Needs the open files of
:mod:`astromodal.cubes.fits_files`; used by :mod:`astromodal.cubes.field`. Begin reading in :mod:`.tiles`.
"""
