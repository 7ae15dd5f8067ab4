"""Surveys: Parquet datacubes, what their columns hold, and who stands in which split.

Names are imported on first use, so that importing one part does not load the others.
"""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "datacube": "Batch Datacube discover",
        "on_disk": "SurveyKeys check_unique_ids",
        "columns": "list_column_ragged list_column_to_matrix",
        "scalars": "ScalarBatch inverse_transform read_scalars scalar_columns transform",
        "spectra": "SpectrumBatch grid read_spectra",
        "images": "ImageBatch elliptical_mask read_images",
        "splits": "TEST TRAIN VAL assign_splits",
        "synthetic": "check_place ensure_survey noise_limited_error true_parameters",
        "..recipes.ebird.checklists": "Checklists read_checklists",
        "..recipes.ebird.checklist_generator": "ChecklistGenerator",
        "..recipes.ebird.species_matrix": "SpeciesMatrix split_rows",
    },
)
