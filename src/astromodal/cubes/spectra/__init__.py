"""Spectra of objects as the list columns of ``data.spectra``: DESI's files, those of SDSS and BOSS, tables.

Needs the open files of :mod:`astromodal.cubes.fits_files`; used by :mod:`astromodal.cubes.field`. A format is a module
with ``index`` (where each object's spectrum is) and ``read``. Begin reading in :mod:`.reader`.
"""
