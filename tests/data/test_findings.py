"""What was lost: summed by source and field, said with its share, warned about above a tenth with the likely cause."""

import json

from astromodal.data.findings import REASONS, Findings, damage, finding_rows


def test_counts_of_batches_and_fields_add_up_and_survive_json():
    found = Findings()
    found.add("A", "scalar z", {"null": 2, "inf": 1, "nan": 0}, kept=7)
    found.add("A", "scalar z", {"null": 1}, kept=10)
    found.add("B", "scalar z", {"sentinel": 4}, kept=1)
    assert found.totals() == {"scalar z": {"null": 3, "inf": 1, "kept": 18, "sentinel": 4}}
    again = Findings()
    for name in ("A", "B"):
        again.add_field(name, json.loads(json.dumps(found.field(name))))
    assert again.totals() == found.totals() and again.warnings() == found.warnings()


def test_more_than_a_tenth_of_what_was_given_is_a_warning_and_what_was_not_given_is_none():
    found = Findings()
    found.add("A", "scalar a", {"inf": 10, "null": 900}, kept=90)  # a tenth
    found.add("A", "scalar b", {"inf": 6, "out_of_range": 5}, kept=89)  # together more than a tenth
    found.add("A", "scalar c", {"sentinel": 80, "nan": 10, "nondetected": 5, "masked": 5}, kept=1)
    (line,) = found.warnings()
    assert line.startswith("scalar b: lost 11 of 100: 6 infinite, 5 outside of min and max (field A); likely cause: ")
    assert REASONS["inf"].cause in line


def test_one_wrong_field_among_many_is_found_and_named():
    found = Findings()
    for k in range(30):
        found.add(f"F{k}", "spectrum b", {"outside_grid_nm": 50 if k in (3, 4, 5, 9) else 0}, kept=50)
    (line,) = found.warnings()
    assert "lost 200 of 400" in line and "(fields F3, F4, F5 and 1 more)" in line and "nm for a grid in Å" in line


def test_each_kind_of_loss_has_its_own_whole():
    found = Findings()
    found.add("A", "spectrum b", {"pixels_outside": 60, "pixels": 100, "masked_pixels": 90}, kept=10)
    found.add("A", "scalar z", {"bad_error": 3, "no_error": 80}, kept=100)
    found.add("A", "scalar y", {"clipped": 9}, kept=100)
    pixels, errors = found.warnings()
    assert "spectrum b: lost 60 of 100" in pixels and "scalar z: lost 3 of 20" in errors
    assert finding_rows(found.totals()) == [
        ("spectrum b", "60 pixels outside of the grid (60%), 90 masked pixels on the grid"),
        ("scalar z", "3 with an error of 0, below 0 or infinite (15%), 80 without an error"),
        ("scalar y", "9 beyond the fitted range, in an end bin (9%)"),
    ]


def test_lost_values_tell_a_sentinel_from_a_unit():
    found = Findings()
    found.add("A", "scalar z", {"out_of_range": 40}, kept=60, examples={"out_of_range": [-9.99] * 38 + [12.0, 13.0]})
    found.add("A", "scalar w", {"out_of_range": 40}, kept=60, examples={"out_of_range": [3621.0, 4000.0, 3900.0]})
    z, w = found.warnings()
    assert z.endswith("most of them are -9.99") and w.endswith("they lie between 3621 and 4000")


def test_a_reason_that_the_table_does_not_know_is_shown_as_a_remark():
    found = Findings()
    found.add("A", "spectrum b", {"turned_round_twice": 30}, kept=30)
    assert finding_rows(found.totals()) == [("spectrum b", "30 turned round twice")] and not found.warnings()


def test_damage_is_told_apart_from_gaps():
    assert damage({"image r": {"wrong_length": 1, "invalid_pixels": 9}, "scalar z": {"null": 4, "inf": 2}}) == (
        "image r 1 of a wrong length, scalar z 2 infinite"
    )
