"""A sweep over what is read of a survey: jobs that read something else are not taken to have the same inputs."""

from __future__ import annotations

from types import SimpleNamespace

from astromodal.sweeps.sweeper import remembering
from tests.data.sources.holdings import survey


def test_jobs_with_another_cone_layout_or_extension_have_inputs_of_their_own():
    asked = []

    def inputs_of(job) -> dict[str, str]:
        asked.append(job)
        return {"datacube_A": str(len(asked))}

    remembered = remembering(inputs_of)
    paths = SimpleNamespace(store="store", datacube_template="x/{field}.parquet")
    changes = (
        {},
        {"cone": [1.0, 2.0, 3.0]},
        {"cone": [1.0, 2.0, 4.0]},
        {"layout": "files"},
        {"hdu": "2"},
        {"fields": ["A"]},
    )
    jobs = [SimpleNamespace(config=SimpleNamespace(paths=paths, data=survey("x", **change))) for change in changes]
    found = [remembered(job)["datacube_A"] for job in (*jobs, *jobs)]
    assert found[: len(jobs)] == found[len(jobs) :] and len(set(found)) == len(asked) == len(jobs)
