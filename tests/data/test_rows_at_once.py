"""Many rows at a time where a row is small, and as many as configured where it is not."""

from __future__ import annotations

from astromodal.config.schema import DataConfig, ScalarConfig, SpectrumGroupConfig
from astromodal.data.datacube import NUMBER_ROWS, rows_at_once


def test_lists_are_read_as_configured_and_numbers_in_large_batches():
    data = DataConfig(
        scalars={"mag": ScalarConfig(error="mag_error")},
        spectra={"b": SpectrumGroupConfig(flux="flux", wave="wave")},
        batch_rows=32,
    )
    assert rows_at_once(data, ["id", "mag", "mag_error"]) == NUMBER_ROWS > 32
    assert rows_at_once(data, ["id", "mag", "flux"]) == 32
    data.batch_rows = 2 * NUMBER_ROWS
    assert rows_at_once(data, ["mag"]) == 2 * NUMBER_ROWS
