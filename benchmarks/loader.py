"""Rows per second from token files to batches, against reopening an .npz for every row.

    PYTHONPATH=src python benchmarks/loader.py            # two lengths of rows, two numbers of objects
    PYTHONPATH=src python benchmarks/loader.py --quick

Variants are interleaved and medians reported, because shared machines disturb single runs. Every rate is from the
files to tensors of a batch of 16, sampler included. ``anonymous`` is the process's own memory (RssAnon), without the
pages of mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from astromodal.sequences import BucketSampler, SequenceDataset, SequenceLayout, SequenceLoader, build_sequences
from astromodal.tokens import FieldWriter, TokenStore, token_paths
from astromodal.vocabulary.vocab import build_vocab_spec

BATCH = 16
COLUMNS = tuple(f"c{i}" for i in range(40))
GROUPS = {"b": 86, "r": 73, "z": 91}
IMAGE = 576
KINDS = {"catalogue": (False, 0.9), "everything": (True, 0.9)}  # spectra and image?, fraction of columns present
REOPENED_ROWS = 200


def write_tokens(root: Path, n: int, everything: bool, fraction: float) -> TokenStore:
    """Token files of random codes, through the writer that ``encode.py`` uses."""
    rng = np.random.default_rng(0)
    with FieldWriter(root / "tokens", "A") as writer:
        for start in range(0, n, 2000):
            m = min(2000, n - start)
            present = rng.random((m, len(COLUMNS))) < fraction
            writer.add_scalars(
                SimpleNamespace(
                    tokens=rng.integers(0, 1024, present.shape),
                    present=present,
                    clipped=~present,
                    nondetected=~present & False,
                    values=rng.normal(size=present.shape),
                    errors=np.ones(present.shape),
                    sigma=np.ones(present.shape),
                ),
                COLUMNS,
            )
            for group, length in GROUPS.items() if everything else ():
                writer.add_spectrum(group, rng.integers(0, 1024, (m, length)), np.ones(m, bool), np.ones((m, length)))
            if everything:
                tokens = rng.integers(0, 2048, (m, IMAGE))
                writer.add_image(tokens, np.zeros((m, 1, 1, 1)), np.ones(m, bool))
        ids = np.array([f"A-{i:09d}" for i in range(n)])
        writer.commit(ids, np.zeros(n, np.uint8), {"inputs": {}, "summary": {}})
    return TokenStore(root)


def reopened(root: Path, n: int, everything: bool) -> Iterator[int]:
    """The obvious loader: open the field's files for each object of a batch, build its sequence, pad."""
    paths, rng = token_paths(root / "tokens", "A"), np.random.default_rng(1)
    while True:
        rows = []
        for i in rng.integers(0, n, BATCH):
            with np.load(paths["scalar"]) as file:
                parts = [file["tokens"][i][file["present"][i]]]
            if everything:
                with np.load(paths["spectrum"]) as file:
                    for group in GROUPS:
                        offsets = file[f"offsets_{group}"]
                        parts.append(file[f"tokens_{group}"][offsets[i] : offsets[i + 1]])
                with np.load(paths["image"]) as file:
                    parts.append(file["tokens"][i])
            rows.append(torch.from_numpy(np.concatenate(parts).astype(np.int64)))
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        yield BATCH


def loader_rows(loader: SequenceLoader) -> Iterator[int]:
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        for batch in loader:
            yield len(batch["tokens"])
        epoch += 1


def rate(rows: Iterator[int], seconds: float) -> float:
    """Rows per second over at least ``seconds``."""
    n, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        n += next(rows)
    return n / elapsed


def anonymous_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(kind: str, n: int, repeats: int, seconds: float, n_reopened: int) -> None:
    everything, fraction = KINDS[kind]
    vocab = build_vocab_spec(2048, 1024, dict.fromkeys(GROUPS, 1024), scalar_columns=COLUMNS)
    modalities = ("scalar", "spectrum", "image") if everything else ("scalar",)
    layout = SequenceLayout(vocab, modalities, COLUMNS, GROUPS if everything else {}, IMAGE if everything else 0, 2048)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = write_tokens(root, n, everything, fraction)
        small = root if n == n_reopened else root / "small"  # np.load reads whole members: a small field flatters it
        if n != n_reopened:
            write_tokens(small, n_reopened, everything, fraction)
        started = time.perf_counter()
        packed = build_sequences(store, layout)
        packing = n / (time.perf_counter() - started)
        before = anonymous_mib()

        def loader(order: str, with_sigma: bool = False) -> SequenceLoader:
            dataset = SequenceDataset(packed, "train", order=order, with_sigma=with_sigma)
            return SequenceLoader(dataset, BucketSampler(dataset.lengths, BATCH))

        variants: dict[str, Callable[[], Iterator[int]]] = {
            f"npz reopened per row ({n_reopened} objects)": lambda: reopened(small, n_reopened, everything),
            "loader, fixed order": lambda: loader_rows(loader("fixed")),
            "loader, random order": lambda: loader_rows(loader("random")),
            "loader, fixed order, with sigma": lambda: loader_rows(loader("fixed", True)),
        }
        running = {name: make() for name, make in variants.items()}
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(repeats):
            for name, rows in running.items():
                rates[name].append(rate(rows, seconds))
        length = len(packed.split("train")["tokens"]) / packed.n_rows("train")
        slow = statistics.median(next(iter(rates.values())))
        print(
            f"\n{kind}: {n} objects, {length:.0f} tokens per row; packing {packing:,.0f} rows/s; "
            f"anonymous memory while loading +{anonymous_mib() - before:.1f} MiB"
        )
        for name, values in rates.items():
            median = statistics.median(values)
            print(f"  {name:42s} {median:12,.0f} rows/s {median * length / 1e6:8.2f} M tokens/s {median / slow:9.0f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    sizes = {"catalogue": (20_000, 400_000), "everything": (5_000, 50_000)}
    for kind, (few, many) in sizes.items():
        for n in (few,) if quick else (few, many):
            measure(kind, n, repeats=3 if quick else 7, seconds=0.3 if quick else 1.0, n_reopened=REOPENED_ROWS)


if __name__ == "__main__":
    main()
