"""Packed sequences against an obvious implementation, object by object; caching, faults, counts."""

import itertools
import os
import threading

import numpy as np
import pytest

from astromodal.config.schema import WorkersConfig
from astromodal.errors import ArtifactError
from astromodal.files.ids import hash_ids
from astromodal.files.io import FileLock, load_npz, save_npz
from astromodal.provenance.manifest import fingerprint_file, read_manifest, update_manifest
from astromodal.sequences import (
    BucketSampler,
    PackedSequences,
    SequenceDataset,
    SequenceLoader,
    build_layout,
    build_sequences,
    packing,
)
from astromodal.tokens import TokenStore, encode_survey, token_paths
from astromodal.vocabulary.vocab import BOS, EOS, MISS, NONDET
from tests.tokens.fake_survey import FakeTokenizers, make_survey

ORDERS = [["scalar", "spectrum", "image"], ["image", "spectrum"], ["spectrum", "scalar"]]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    cubes, splits, data = make_survey(folder)
    encode_survey(cubes, FakeTokenizers(), splits, data, folder / "store")
    return folder / "store"


def oracle(root, layout, missing):
    """Sequences by split, one object and one part at a time, from plainly loaded files."""
    sequences = {0: [], 1: [], 2: []}
    vocab = layout.vocab
    for index, name in enumerate(TokenStore(root).fields()):
        files = {kind: load_npz(path) for kind, path in token_paths(root / "tokens", name).items()}
        for row in range(len(files["splits"]["split"])):
            tokens, types, something = [BOS], [0], False
            for modality in layout.modalities:
                if modality == "scalar":
                    parts = []
                    for j, column in enumerate(layout.columns):
                        codes = None
                        if files["scalar"]["present"][row, j]:
                            codes = [vocab.base_scalar + int(files["scalar"]["tokens"][row, j])]
                        elif files["scalar"]["nondetected"][row, j]:
                            codes = [NONDET]
                        parts.append((codes, vocab.type_of_column(column)))
                elif modality == "spectrum":
                    parts = []
                    for group in layout.group_lengths:
                        first, last = files["spectrum"][f"offsets_{group}"][row : row + 2]
                        codes = [
                            vocab.block(group).start + int(c) for c in files["spectrum"][f"tokens_{group}"][first:last]
                        ]
                        present = files["spectrum"][f"present_{group}"][row]
                        parts.append((codes if present else None, vocab.type_of_group(group)))
                else:
                    codes = [vocab.base_image + int(c) for c in files["image"]["tokens"][row]]
                    parts = [(codes if files["image"]["present"][row] else None, 1)]
                for codes, type_ in parts:
                    something |= codes is not None
                    if codes is None:
                        codes = [MISS] if missing == "token" else []
                    tokens += codes
                    types += [type_] * len(codes)
            if something:
                identifier = files["splits"]["ids"][row]
                sequences[int(files["splits"]["split"][row])].append(
                    ([*tokens, EOS], [*types, 0], index, row, identifier)
                )
    return sequences


@pytest.mark.parametrize("missing", ["absent", "token"])
@pytest.mark.parametrize("modalities", ORDERS, ids=["all", "image first", "no image"])
def test_packed_sequences_equal_those_built_object_by_object(encoded, tmp_path, modalities, missing, monkeypatch):
    monkeypatch.setattr(packing, "_CHUNK_TOKENS", 19 * 13)  # many chunks per field
    layout = build_layout(FakeTokenizers(), modalities, 64)
    packed = build_sequences(TokenStore(encoded), layout, missing, root=tmp_path)
    expected = oracle(encoded, layout, missing)
    for which, name in enumerate(packing.SPLITS):
        arrays = packed.split(name)
        offsets = arrays["offsets"]
        assert len(offsets) - 1 == packed.n_rows(name) == len(expected[which]) > 10
        for i, (tokens, types, field, row, identifier) in enumerate(expected[which]):
            assert arrays["tokens"][offsets[i] : offsets[i + 1]].tolist() == tokens
            assert arrays["types"][offsets[i] : offsets[i + 1]].tolist() == types
            assert (arrays["field"][i], arrays["row"][i]) == (field, row)
            assert arrays["object_hash"][i] == hash_ids([identifier])[0]
        assert offsets[-1] == len(arrays["tokens"]) == len(arrays["types"])


def test_values_are_the_physical_ones_and_nan_where_nothing_was_measured(encoded, tmp_path):
    store = TokenStore(encoded)
    packed = build_sequences(store, build_layout(FakeTokenizers(), ORDERS[0]), root=tmp_path)
    arrays, opened = packed.split("train"), {name: store.open(name) for name in packed.fields}
    for i in range(packed.n_rows("train")):
        field = opened[packed.fields[arrays["field"][i]]]
        row = arrays["row"][i]
        present = field.scalar["present"][row]
        assert np.array_equal(np.isfinite(arrays["scalar_values"][i]), present)
        assert np.array_equal(arrays["scalar_values"][i][present], field.scalar["values"][row][present])


def test_objects_with_nothing_are_left_out_and_counted_and_the_counts_add_up(encoded, tmp_path):
    store = TokenStore(encoded)
    for missing in ("absent", "token"):
        packed = build_sequences(store, build_layout(FakeTokenizers(), ORDERS[0]), missing, root=tmp_path)
        summary = packed.summary
        n_read = sum(entry["rows"] for entry in store.entries.values())
        assert summary["n_dropped"] >= 6 and sum(summary["rows"].values()) + summary["n_dropped"] == n_read
        n_tokens = sum(len(packed.split(name)["tokens"]) for name in packing.SPLITS)
        assert sum(summary["tokens"].values()) == n_tokens
        assert sum(summary["length_histogram"].values()) == sum(summary["rows"].values())
        assert (summary["special_tokens"]["MISS"] > 0) == (missing == "token") and summary["special_tokens"][
            "NONDET"
        ] > 0


def test_shards_by_one_or_two_processes_hold_what_one_file_holds(encoded, tmp_path, monkeypatch):
    store, layout = TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0])
    whole = build_sequences(store, layout, root=tmp_path / "whole")
    monkeypatch.setattr(packing, "_SHARD_ROWS", 1)  # a shard for each field
    shards = build_sequences(store, layout, root=tmp_path / "shards")
    again = build_sequences(store, layout, root=tmp_path / "two", workers=WorkersConfig(n_jobs=2))
    names = sorted(path.name for path in shards.folder.iterdir())
    assert names[1:3] == ["test-0000.npz", "test-0001.npz"] and len(names) == 1 + 3 * len(store.fields())
    assert all((shards.folder / name).read_bytes() == (again.folder / name).read_bytes() for name in names[1:])
    assert dict(shards.summary) == dict(whole.summary) == dict(again.summary)
    for split in packing.SPLITS:
        one, parts = whole.split(split), shards.split(split)
        rng, n = np.random.default_rng(0), whole.n_rows(split)
        for name, array in one.items():
            expected = np.asarray(array)
            np.testing.assert_array_equal(np.asarray(parts[name]), expected)
            rows = rng.integers(-n, n, (3, 5))
            np.testing.assert_array_equal(parts[name][rows], expected[rows])
            np.testing.assert_array_equal(parts[name][n // 3 : -2], expected[n // 3 : -2])
            np.testing.assert_array_equal(parts[name][-1], expected[-1])
        batches = [
            [batch for batch in SequenceLoader(data, BucketSampler(data.lengths, 7))]
            for data in (SequenceDataset(packed, split, order="random", with_values=True) for packed in (whole, shards))
        ]
        for left, right in zip(*batches, strict=True):
            for name in left:
                np.testing.assert_array_equal(left[name].numpy(), right[name].numpy())


def test_splits_share_no_object(encoded, tmp_path):
    packed = build_sequences(TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0]), root=tmp_path)
    objects = [set(packed.split(name)["object_hash"].tolist()) for name in packing.SPLITS]
    assert all(objects) and sum(map(len, objects)) == len(set.union(*objects))


def test_distinct_objects_have_distinct_sequences_end_to_end(encoded, tmp_path):
    packed = build_sequences(TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0]), root=tmp_path)
    seen, n = set(), 0
    for name in packing.SPLITS:
        for tokens, types, offsets in packed.chunks(name, rows=7):
            assert offsets[0] == 0 and offsets[-1] == len(tokens)
            for a, b in itertools.pairwise(offsets.tolist()):
                if b - a > 8:  # at least a spectrum or an image: too many values to agree by chance
                    seen.add((tuple(tokens[a:b].tolist()), tuple(types[a:b].tolist())))
                    n += 1
    assert n > 100 and len(seen) == n


def test_a_second_call_opens_what_is_there_and_a_changed_input_packs_again(encoded, tmp_path, monkeypatch):
    store, layout = TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0])
    first = build_sequences(store, layout, root=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_write", lambda *_: pytest.fail("packed again"))
        assert build_sequences(store, layout, root=tmp_path).folder == first.folder
    folders = {first.folder}
    folders.add(build_sequences(store, layout, "token", root=tmp_path).folder)
    folders.add(build_sequences(store, build_layout(FakeTokenizers(), ORDERS[1]), root=tmp_path).folder)
    folders.add(build_sequences(store.select(["F1"]), layout, root=tmp_path).folder)
    assert len(folders) == 4
    (first.folder / "train.npz").write_bytes((first.folder / "train.npz").read_bytes()[:100])
    again = build_sequences(store, layout, root=tmp_path)
    assert again.folder == first.folder and again.fingerprint == first.fingerprint


def test_a_damaged_folder_is_refused_when_it_is_opened_directly(encoded, tmp_path):
    packed = build_sequences(TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0]), root=tmp_path)
    path = packed.folder / "val.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"val\.npz.*packed again"):
        PackedSequences(packed.folder)


def test_a_failure_while_packing_leaves_nothing(encoded, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "write_manifest", fails)
    with pytest.raises(OSError, match="No space"):
        build_sequences(TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0]), root=tmp_path / "sequences")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    build_sequences(TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0]), root=tmp_path)


def test_without_a_training_object_nothing_is_packed(encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(packing._Counts, "add", lambda *_: None)
    with pytest.raises(ArtifactError, match="at least one training object"):
        build_sequences(TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0]), root=tmp_path / "sequences")
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_found_when_sequences_are_opened_and_they_are_packed_again(encoded, tmp_path, caplog):
    store, layout = TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0])
    folder = build_sequences(store, layout, root=tmp_path).folder
    rng, whole = np.random.default_rng(0), {p: p.read_bytes() for p in folder.iterdir()}
    assert sorted(p.name for p in whole) == ["manifest.json", "test.npz", "train.npz", "val.npz"]
    for path, content in whole.items():
        for bit in rng.choice(8 * len(content), 40, replace=False):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(ArtifactError, match=rf"{path.name}.*to repair: ") as caught:
                PackedSequences(folder)
            assert "\n" not in str(caught.value)
        caplog.clear()
        build_sequences(store, layout, root=tmp_path)
        assert "packing again" in caplog.text and path.name in caplog.text
        assert path.suffix == ".json" or path.read_bytes() == content


def test_a_packed_file_that_is_cut_short_in_use_is_one_line_and_no_signal(encoded, tmp_path):
    packed = build_sequences(TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0]), root=tmp_path)
    dataset = SequenceDataset(packed, "train", with_values=True)
    loader = SequenceLoader(dataset, BucketSampler(dataset.lengths, 4), num_workers=1)
    os.truncate(packed.folder / "train.npz", 3000)
    for read in (lambda: dataset[0], lambda: list(packed.chunks("train")), lambda: list(loader)):
        with pytest.raises(ArtifactError, match=r"cut to 3000 while it was read .*train\.npz.*to repair") as caught:
            read()
        assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_codes_beyond_the_codebook_and_foreign_columns_are_refused(encoded, tmp_path):
    import shutil

    root = tmp_path / "store"
    shutil.copytree(encoded, root)
    path = token_paths(root / "tokens", "F1")["scalar"]
    arrays = load_npz(path)
    arrays["tokens"][np.argmax(arrays["present"][:, 0]), 0] = 32
    save_npz(path, arrays)
    entry = read_manifest(root / "tokens")["entries"]["F1"]
    name = path.relative_to(root / "tokens").as_posix()
    entry["sizes"][name], entry["files"][name] = path.stat().st_size, fingerprint_file(path)
    update_manifest(root / "tokens", "F1", entry)
    with pytest.raises(ArtifactError, match=r"codes of r below 32, got 32 \(field F1\)"):
        build_sequences(TokenStore(root), build_layout(FakeTokenizers(), ORDERS[0]))
    tokenizers = FakeTokenizers()
    tokenizers.image.n_tokens = 5
    with pytest.raises(ArtifactError, match="tokens per image: 5, got 4"):
        build_sequences(TokenStore(encoded), build_layout(tokenizers, ORDERS[0]), root=tmp_path)


def test_a_second_process_waits_for_the_first_and_takes_what_it_made(encoded, tmp_path):
    store, layout = TokenStore(encoded), build_layout(FakeTokenizers(), ORDERS[0])
    folder = build_sequences(store, layout, root=tmp_path).folder
    lock = FileLock(folder).acquire()
    found = []
    thread = threading.Thread(target=lambda: found.append(build_sequences(store, layout, root=tmp_path)))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and not found
    lock.release()
    thread.join(10)
    assert found[0].folder == folder
