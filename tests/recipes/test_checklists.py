"""The reader of eBird's format against a slow, obvious one on made-up files with every quirk; and what it refuses."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from astromodal.errors import ConfigError, DataError
from astromodal.recipes.ebird.checklist_generator import ChecklistGenerator
from astromodal.recipes.ebird.checklists import read_checklists, species_name
from astromodal.recipes.ebird.species_matrix import EpochBatches, species_matrix, split_rows

SIZES = {"n_checklists": 500, "n_species": 40, "n_habitats": 3}


@pytest.fixture(scope="module", params=["new", "old"])
def files(request, tmp_path_factory) -> tuple[ChecklistGenerator, Path, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    made = ChecklistGenerator(**SIZES, seed=3, layout=request.param)
    made.write(folder / "ebd.txt", folder / "sampling.txt.gz")
    return made, folder / "ebd.txt", folder / "sampling.txt.gz"


def slowly(path: Path, sampling: Path | None = None) -> tuple[dict[str, set[str]], dict[str, int]]:
    """Species of each checklist by splitting lines, in the plainest way; and some counts."""
    found: dict[str, set[str]] = {}
    counts = {"rows": 0, "incomplete": 0, "other_protocol": 0, "spuh": 0, "X": 0}
    for file in [p for p in (path, sampling) if p]:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
            header = next(lines).rstrip("\n").split("\t")
            for line in lines:
                fields = line.rstrip("\n").split("\t")
                if len(fields) < len(header) - 1:
                    continue  # a line that was cut
                row = dict(zip(header, fields, strict=False))
                observed = file == path
                counts["rows"] += observed
                if row["ALL SPECIES REPORTED"] != "1":
                    counts["incomplete"] += observed
                    continue
                if row.get("PROTOCOL NAME", row.get("PROTOCOL TYPE")) not in ("Stationary", "Traveling"):
                    counts["other_protocol"] += observed
                    continue
                species = found.setdefault(row["GROUP IDENTIFIER"] or row["SAMPLING EVENT IDENTIFIER"], set())
                if not observed:
                    continue
                if row["CATEGORY"] in ("spuh", "slash", "hybrid"):
                    counts["spuh"] += row["CATEGORY"] == "spuh"
                    continue
                counts["X"] += row["OBSERVATION COUNT"] == "X"
                species.add(row["SCIENTIFIC NAME"].replace(" (Domestic type)", ""))
    return found, counts


def as_sets(checklists) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {key: set() for key in checklists.ids}
    for row, column in zip(checklists.rows, checklists.columns, strict=True):
        assert checklists.species[column] not in found[checklists.ids[row]], "a presence occurs twice"
        found[checklists.ids[row]].add(checklists.species[column])
    return found


@pytest.mark.parametrize("with_sampling", [False, True])
@pytest.mark.parametrize("block_bytes", [1 << 14, 4 << 20])
def test_it_finds_what_the_obvious_reader_finds(files, with_sampling, block_bytes):
    _, path, sampling = files
    sampling = sampling if with_sampling else None
    checklists = read_checklists(path, sampling, block_bytes=block_bytes)
    found, counts = slowly(path, sampling)
    assert as_sets(checklists) == found
    assert len(set(checklists.ids)) == len(checklists.ids) and len(checklists) > 350
    names = {
        "rows": "rows",
        "incomplete": "incomplete",
        "other_protocol": "other_protocol",
        "spuh": "category_spuh",
        "X": "count_X",
    }
    assert {ours: checklists.counts[theirs] for ours, theirs in names.items()} == counts


def test_every_quirk_is_in_the_files_and_counted(files):
    _, path, sampling = files
    text = path.read_text()
    assert text.splitlines()[0].endswith("COMMENTS\t") and '\t"Heard only\t' in text
    for category in ("species", "issf", "intergrade", "form", "domestic", "spuh", "slash", "hybrid"):
        assert f"\t{category}\t" in text
    counts = read_checklists(path, sampling).counts
    dropped = (
        "malformed",
        "rescued",
        "incomplete",
        "other_protocol",
        "category_spuh",
        "category_slash",
        "category_hybrid",
        "count_X",
        "merged",
        "without_observations",
    )
    assert all(counts[name] > 0 for name in dropped), counts
    kept = counts["rows"] - counts["incomplete"] - counts["other_protocol"] - counts["merged"]
    kept -= counts["category_spuh"] + counts["category_slash"] + counts["category_hybrid"]
    assert len(read_checklists(path).rows) == kept  # nothing is lost without a word


def test_both_layouts_hold_the_same_checklists(tmp_path):
    sets = []
    for layout in ("new", "old"):
        ChecklistGenerator(**SIZES, seed=1, layout=layout).write(tmp_path / f"{layout}.txt.gz")
        sets.append(as_sets(read_checklists(tmp_path / f"{layout}.txt.gz")))
    assert sets[0] == sets[1]


def test_generated_files_are_a_function_of_the_seed(tmp_path):
    texts = []
    for seed in (5, 5, 6):
        ChecklistGenerator(300, 20, seed=seed).write(tmp_path / "a.txt")
        texts.append((tmp_path / "a.txt").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_presences_have_the_known_probabilities(files):
    """Observed frequencies fit the true probabilities (Pearson's chi-squared over bins), and the best score is best."""
    made, path, sampling = files
    matrix = species_matrix(read_checklists(path, sampling))
    p, x = made.probabilities(matrix.ids, matrix.species), matrix.toarray()
    inside = x.any(1)  # but for the few that are empty on purpose
    p, x = p[inside], x[inside]
    edges = np.quantile(p, np.linspace(0, 1, 11)[1:-1])
    group = np.digitize(p, edges)
    n, hits, expected = (np.bincount(group.ravel(), weights=w.ravel(), minlength=10) for w in (np.ones_like(p), x, p))
    deviation = (hits - expected) / np.sqrt(expected * (1 - expected / n))
    assert np.abs(deviation).max() < 4.5
    known = float(-(x * np.log(p) + (1 - x) * np.log1p(-p)).sum(1).mean())
    frequency = x.mean(0).clip(1e-3, 1 - 1e-3)
    marginal = float(-(x * np.log(frequency) + (1 - x) * np.log1p(-frequency)).sum(1).mean())
    assert known < made.best_nats(x, matrix.species, 3000) < marginal


# ------------------------------------------------------------------------------------ rows by hand

HEADER = (
    "CATEGORY",
    "COMMON NAME",
    "SCIENTIFIC NAME",
    "OBSERVATION COUNT",
    "SAMPLING EVENT IDENTIFIER",
    "PROTOCOL TYPE",
    "ALL SPECIES REPORTED",
    "GROUP IDENTIFIER",
    "TRIP COMMENTS",
)
JAY = ("species", "Blue Jay", "Cyanocitta cristata", "2", "S1", "Traveling", "1", "", "")


def write(path: Path, *rows, header=HEADER, end="\t\n") -> Path:
    text = "".join("\t".join(row) + end for row in (header, *rows))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def changed(**values) -> tuple[str, ...]:
    names = {name.split()[0].lower(): i for i, name in enumerate(HEADER)}
    row = list(JAY)
    for key, value in values.items():
        row[names[key]] = value
    return tuple(row)


def test_taxa_of_one_species_are_one_presence_and_keep_the_species_name(tmp_path):
    rows = [
        changed(category="issf", common="Rock Wren (Northern)", scientific="Salpinctes obsoletus"),
        changed(category="domestic", common="Rock Wren (Domestic type)", scientific="Salpinctes obsoletus (Domestic)"),
        changed(common="Rock Wren", scientific="Salpinctes obsoletus", observation="X"),
        changed(category="form", common="Rock Wren (a/b)", scientific="Salpinctes obsoletus a/b"),
        changed(category="form", common="owlet sp. (undescribed)", scientific="Glaucidium sp."),
        changed(category="mystery", common="?", scientific="Avis ignota"),
    ]
    found = read_checklists(write(tmp_path / "a.txt", *rows))
    assert (found.species, found.common_names, len(found.rows)) == (["Salpinctes obsoletus"], ["Rock Wren"], 1)
    assert (found.counts["merged"], found.counts["unresolved_form"], found.counts["category_mystery"]) == (3, 1, 1)


def test_shared_checklists_count_once_with_the_species_of_all_copies(tmp_path):
    wren = changed(common="Rock Wren", scientific="Salpinctes obsoletus")
    rows = [(*JAY[:4], "S7", *JAY[5:7], "G3", ""), (*wren[:4], "S9", *wren[5:7], "G3", ""), JAY]
    found = read_checklists(write(tmp_path / "a.txt", *rows))
    assert as_sets(found) == {"G3": {"Cyanocitta cristata", "Salpinctes obsoletus"}, "S1": {"Cyanocitta cristata"}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (changed(all="0"), "incomplete"),
        (changed(protocol="Incidental"), "other_protocol"),
        (changed(sampling="nonsense"), "malformed"),
        (changed(group="x"), "malformed"),
        (changed(all="maybe"), "malformed"),
        (changed(observation="0"), "count_unreadable"),
        (changed(observation="a few"), "count_unreadable"),
        (changed(category="spuh", scientific="Corvus sp."), "category_spuh"),
        (JAY[:5], "malformed"),
    ],
)
def test_what_is_dropped_is_counted(tmp_path, row, reason):
    other = changed(common="Rock Wren", scientific="Salpinctes obsoletus", sampling="S2")
    found = read_checklists(write(tmp_path / "a.txt", row, other))
    assert found.species == ["Salpinctes obsoletus"] and found.counts[reason] == 1


@pytest.mark.parametrize("end", ["\t\n", "\n", "\t\r\n"])
@pytest.mark.parametrize("protocol", ["PROTOCOL TYPE", "PROTOCOL NAME", "OBSERVATION TYPE", "protocol_name"])
def test_line_ends_and_names_of_the_protocols_column(tmp_path, end, protocol):
    header = tuple(protocol if name == "PROTOCOL TYPE" else name for name in HEADER)
    assert read_checklists(write(tmp_path / "a.txt", JAY, JAY, header=header, end=end)).species == [JAY[2]]


def test_quotes_tabs_and_bytes_that_are_no_text_in_comments(tmp_path):
    comments = ['"', 'a "b', "''", "a\tb", "a\t\tb\tc", "Jos\udce9"]
    rows = [(*JAY[:4], f"S{i}", *JAY[5:8], comment) for i, comment in enumerate(comments, 1)]
    found = read_checklists(write(tmp_path / "a.txt", *rows))
    assert sorted(found.ids) == [f"S{i}" for i in range(1, 7)] and found.counts["rescued"] == 2


def test_a_tab_before_the_last_needed_column_cannot_be_rescued(tmp_path):
    header = ("TRIP COMMENTS", *HEADER[:-1])
    rows = [("a\tb", *JAY[:-1]), ("", *changed(sampling="S2")[:-1])]
    found = read_checklists(write(tmp_path / "a.txt", *rows, header=header))
    assert found.ids == ["S2"] and found.counts["malformed"] == 1


def test_the_first_rows_only(files):
    _, path, _ = files
    some = read_checklists(path, nrows=500, block_bytes=1 << 14)
    assert some.counts["rows"] == 500 and set(as_sets(some)) < set(as_sets(read_checklists(path)))


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"a tab-separated file, got nothing \(.*none.txt\)"):
        read_checklists(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"columns SAMPLING EVENT IDENTIFIER; GROUP.*got A, B.*; to repair"):
        read_checklists(write(tmp_path / "a.txt", header=("A", "B")))
    with pytest.raises(DataError, match="complete checklists with protocol Stationary or Traveling, got none"):
        read_checklists(write(tmp_path / "a.txt", changed(all="0")))
    with pytest.raises(DataError, match="complete checklists"):
        read_checklists(write(tmp_path / "a.txt"))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="an empty line"):
        read_checklists(tmp_path / "empty.txt")
    whole = gzip.compress(write(tmp_path / "a.txt", *[JAY] * 5000).read_bytes())
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.txt\.gz"):
        read_checklists(tmp_path / "cut.txt.gz")
    (tmp_path / "not.txt.gz").write_bytes(b"no gzip at all")
    with pytest.raises(DataError, match="unpack"):
        read_checklists(tmp_path / "not.txt.gz")


def test_names_of_species():
    assert species_name("Columba livia (Feral Pigeon)") == species_name("Columba livia") == "Columba livia"
    assert species_name("Anas platyrhynchos x rubripes") == "Anas platyrhynchos"  # hybrids go by their category
    assert [species_name(n) for n in ("Larinae sp.", "Empidonax alnorum/traillii", "Corvus", "")] == [None] * 4


def test_memory_does_not_grow_with_what_is_dropped(tmp_path):
    """Ten times the file, all of it incomplete checklists: the peak stays where it was."""
    made = ChecklistGenerator(1000, 100, seed=0)
    made.write(tmp_path / "small.txt")
    lines = (tmp_path / "small.txt").read_bytes().splitlines(keepends=True)
    incomplete = [re.sub(rb"\t1\t(G?\d*)\t0\t1\t0\t", rb"\t0\t\1\t0\t1\t0\t", line) for line in lines[1:]]
    with open(tmp_path / "large.txt", "wb") as file:
        file.writelines(lines)
        for _ in range(9):
            file.writelines(incomplete)
    code = (
        "import resource as r, sys; from astromodal.recipes.ebird.checklists import read_checklists\n"
        "found = read_checklists(sys.argv[1], block_bytes=1 << 20)\n"
        "print(len(found), len(found.rows), found.counts['incomplete'], r.getrusage(r.RUSAGE_SELF).ru_maxrss)"
    )
    sizes = []
    for name in ("small.txt", "large.txt"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )
        sizes.append([int(word) for word in done.stdout.split()])
    grown_bytes = (tmp_path / "large.txt").stat().st_size - (tmp_path / "small.txt").stat().st_size
    assert sizes[0][:2] == sizes[1][:2] and grown_bytes > 35e6
    assert sizes[1][2] > 8.5 * len(lines)
    assert (sizes[1][3] - sizes[0][3]) * 1024 < 0.2 * grown_bytes


# ------------------------------------------------------------------------------------ matrix and split


def test_rare_species_are_left_out_and_checklists_stay(files):
    _, path, sampling = files
    checklists = read_checklists(path, sampling)
    everything, common = species_matrix(checklists), species_matrix(checklists, 60)
    counts = dict(zip(everything.species, everything.toarray().sum(0), strict=True))
    assert common.species == sorted(name for name, count in counts.items() if count >= 60)
    assert 0 < len(common.species) < len(everything.species) and len(common) == len(everything) == len(checklists)
    columns = [everything.species.index(name) for name in common.species]
    assert np.array_equal(everything.toarray()[:, columns], common.toarray())
    assert np.allclose(common.frequencies(), common.toarray().mean(0)) and (everything.toarray().sum(1) == 0).any()
    with pytest.raises(DataError, match="on at least 100000 checklists"):
        species_matrix(checklists, 100_000)


def test_the_split_goes_by_the_checklists_id(files):
    _, path, sampling = files
    first, second = species_matrix(read_checklists(path, sampling)), species_matrix(read_checklists(path))
    assert first.ids != second.ids
    sides = []
    for matrix in (first, second):
        train, val = split_rows(matrix, 0.25, seed=1)
        assert len(val) == round(0.25 * len(matrix)) and sorted([*train, *val]) == list(range(len(matrix)))
        sides.append({matrix.ids[row] for row in val})
    assert len(sides[0] & sides[1]) > 0.95 * len(sides[1])  # the few checklists without species move the border a bit
    assert set(split_rows(first, 0.25, seed=2)[1]) != set(split_rows(first, 0.25, seed=1)[1])
    for val_size in (0.0, 1.0, 1e-9):
        with pytest.raises(ConfigError, match="val_size"):
            split_rows(first, val_size)


def test_batches_are_a_function_of_seed_and_epoch_and_can_be_started_at():
    batches = EpochBatches(23, 5, shuffle=True, seed=4)
    first, again = list(batches), list(batches)
    assert (
        first == again
        and sorted(row for batch in first for row in batch) == list(range(23))
        and len(batches) == len(first) == 5
    )
    batches.set_epoch(1)
    other = list(batches)
    assert other != first
    batches.start_at(3)
    assert list(batches) == other[3:] and list(batches) == other
    assert list(EpochBatches(4, 3, shuffle=False)) == [[0, 1, 2], [3]]


EBD_HEADER = (
    "CATEGORY",
    "COMMON NAME",
    "SCIENTIFIC NAME",
    "OBSERVATION COUNT",
    "SAMPLING EVENT IDENTIFIER",
    "PROTOCOL NAME",
    "ALL SPECIES REPORTED",
    "GROUP IDENTIFIER",
)


def write_taxa(path: Path, rows: list[tuple[str, ...]], header=EBD_HEADER, encoding: str = "utf-8") -> Path:
    """A file with a row per (category, common name, scientific name, …), each on a checklist of its own by default."""
    defaults = ("2", "", "Stationary", "1", "")
    whole = [(*row, *defaults[len(row) - 3 :]) for row in rows]
    whole = [(*row[:4], row[4] or f"S{100 + i}", *row[5:]) for i, row in enumerate(whole)]
    path.write_bytes("".join("\t".join(row) + "\n" for row in (header, *whole)).encode(encoding))
    return path


TAXA = [  # category, common name, scientific name -> the species that eBird's taxonomy reports it as
    ("species", "Mallard", "Anas platyrhynchos", "Anas platyrhynchos"),
    ("issf", "Mallard", "Anas platyrhynchos", "Anas platyrhynchos"),
    ("domestic", "Mallard (Domestic type)", "Anas platyrhynchos (Domestic type)", "Anas platyrhynchos"),
    (
        "intergrade",
        "Spruce Grouse (A x B)",
        "Canachites canadensis [canadensis Group] x franklinii/isleibi",
        "Canachites canadensis",
    ),
    ("form", "Brant (Gray-bellied)", "Branta bernicla (Gray-bellied)", "Branta bernicla"),
    ("form", "Iceland Gull (thayeri/kumlieni)", "Larus glaucoides thayeri/kumlieni", "Larus glaucoides"),
    ("form", "Flightless Steamer-Duck (Chiloe form)", "Tachyeres pteneres [undescribed form]", "Tachyeres pteneres"),
    ("form", "Azuero Warbler (undescribed form)", "Basileuterus [undescribed form]", "Basileuterus [undescribed form]"),
    (
        "form",
        "Cali Antpitta (undescribed form)",
        "Grallaricula [undescribed Cali form]",
        "Grallaricula [undescribed Cali form]",
    ),
    (
        "form",
        "Lambayeque Tapaculo (undescribed form)",
        "Scytalopus [undescribed Lambayeque form]",
        "Scytalopus [undescribed Lambayeque form]",
    ),
    (
        "form",
        "Turimiquire Tapaculo (undescribed form)",
        "Scytalopus [undescribed Turimiquire form]",
        "Scytalopus [undescribed Turimiquire form]",
    ),
    (
        "form",
        "Mindanao Shortwing",
        "Brachypteryx (undescribed submontane Mindanao form)",
        "Brachypteryx (undescribed submontane Mindanao form)",
    ),
    (
        "form",
        "Andean Storm-Petrel (unrecognized species)",
        "Oceanites barrosi [unrecognized species]",
        "Oceanites barrosi [unrecognized species]",
    ),
    ("spuh", "duck sp.", "Anatidae sp.", None),
    ("slash", "Greater/Lesser Scaup", "Aythya marila/affinis", None),
    ("hybrid", "Mallard x Gadwall (hybrid)", "Anas platyrhynchos x Mareca strepera", None),
    ("domestic", "Domestic goose sp. (Domestic type)", "Anser sp. (Domestic type)", None),
]


def test_every_category_resolves_as_in_ebirds_taxonomy(tmp_path):
    found = read_checklists(write_taxa(tmp_path / "e.txt", [taxon[:3] for taxon in TAXA]))
    seen = {found.ids[row]: found.species[column] for row, column in zip(found.rows, found.columns, strict=True)}
    assert [seen.get(f"S{100 + i}") for i in range(len(TAXA))] == [taxon[3] for taxon in TAXA]
    common = dict(zip(found.species, found.common_names, strict=True))
    assert common["Basileuterus [undescribed form]"] == "Azuero Warbler (undescribed form)"
    assert common["Anas platyrhynchos"] == "Mallard" and common["Tachyeres pteneres"] == "Flightless Steamer-Duck"
    assert found.counts["category_spuh"] == found.counts["category_slash"] == found.counts["unresolved_domestic"] == 1


@pytest.mark.parametrize("empty", ["", "NA", "nan", "NULL"])
def test_an_empty_group_identifier_is_empty_however_it_is_written(tmp_path, empty):
    """As R and pandas write tables back: NA, TRUE for 1, names in small letters, all events of a shared checklist."""
    header = tuple(name.lower().replace(" ", "_") for name in EBD_HEADER)
    rows = [
        (
            "species",
            "Great Tit",
            "Parus major",
            "2",
            f"S{k}, S{90 + k}" if k % 5 == 0 else "",
            "Stationary",
            "TRUE" if k else "FALSE",
            f"G{k}" if k % 5 == 0 else empty,
        )
        for k in range(20)
    ]
    found = read_checklists(write_taxa(tmp_path / "e.txt", rows, header))
    assert len(found) == 19 and found.counts["malformed"] == 0 and found.counts["incomplete"] == 1
    assert sorted(key for key in found.ids if key.startswith("G")) == ["G10", "G15", "G5"]


def test_files_that_are_no_text_in_utf8_are_named(tmp_path):
    rows = [("species", "Grünling", "Chloris chloris")]
    for name, encoding, said in (("a", "utf-16", "UTF-16"), ("b", "cp1252", "0xfc, as in 'Grünling'")):
        path = write_taxa(tmp_path / f"{name}.txt", rows, encoding=encoding)
        with pytest.raises(DataError, match=re.escape(said)):
            read_checklists(path)
    path = write_taxa(tmp_path / "e.txt", rows)
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.write(path)
    (tmp_path / "f.txt").write_bytes(gzip.compress(path.read_bytes()))
    for name, said in (("e.zip", "a .zip archive"), ("f.txt", r"a gzip file .*suffix .gz")):
        with pytest.raises(DataError, match=said):
            read_checklists(tmp_path / name)
    text = path.read_text() + "species\tGr\xfcn\tParus major\t2\tS9\tStationary\t1\t\textra\n"
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(DataError, match="UTF-8"):
        read_checklists(path)
