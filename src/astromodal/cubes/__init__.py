"""Datacubes from what archives deliver: a catalogue, FITS images, spectra, further catalogues. ``build_datacubes.py``.

What a datacube looks like is the section ``data`` of the configuration, where its parts come from the section
``cubes``. Needs astropy (and astropy-healpix for tiles of the sky); used by :mod:`astromodal.stages`. Tables are
staged once as Arrow files that are mapped, not held (:mod:`.staging`); each field then is one job: who matches whom
(:mod:`.matching`), which image an object is on (:mod:`.images`), which file has its spectrum
(:mod:`.spectra`), and rows written some hundred at a time (:mod:`.field`). Begin reading
in :mod:`.build`.
"""
