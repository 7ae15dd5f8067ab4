"""Spectra as tokens: per group, a k-means codebook over patches of (normalised flux, log of the precision).

A spectrum arrives divided by its own robust scale, on its group's grid, with precision = sqrt(ivar) in the same unit.
One token stands for ``patch_size`` pixels with features ``flux`` and ``precision_weight * log1p(precision)``;
``patch_size: 1`` is the documented (flux, precision) pair. Each group has its own codebook and covers its whole
range (:mod:`.patches` says how the end is padded and masked pixels are filled). Spectra without ivar get the
group's median precision, which favours no code. Coefficient vectors are standardised per coefficient first.

Shape legend: n objects, P pixels, p pixels per patch, L patches, C codes.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..config.schema import DataConfig, KMeansConfig, SpectrumGroupConfig, SpectrumTokenizerConfig
from ..core import io
from ..core.codebook import Codebook
from ..data.spectra import SpectrumBatch, grid, merge_counts, n_pixels, read_spectra, spectrum_columns
from ..errors import ArtifactError, ConfigError, DataError
from ..metrics import ErrorSums, bits_per_symbol, codes_used, perplexity
from ..quantizers import KMeans, Reservoir, quantizer_config
from .base import Tokenizer, plain
from .groups import GroupCodec, fit_group
from .patches import join
from .sigma import patch_sigma

if TYPE_CHECKING:
    from ..core.runs import RunContext
    from ..data.datacube import Datacube

FILE_NAME = "spectrum_tokenizer_config.npz"
REPORT_PIXELS = 200_000  # residuals kept for the median
N_EXAMPLES = 4  # spectra per group for plots
NO_SPECTRUM = "no spectrum in the training split"


def _why_none(found: Mapping[str, int], config: SpectrumGroupConfig) -> str:
    """Why a group without a usable spectrum has none."""
    n = found.get("length_mismatch", 0)
    if not n:
        return NO_SPECTRUM
    wanted = f"that of {config.wave}" if config.wave else n_pixels(config)
    return f"{n} spectra whose length is not {wanted}, and none of that length"


class SpectrumTokenizer(Tokenizer):
    """One codebook per group of spectra.

    Learned: ``codecs`` (group → :class:`GroupCodec`) and ``skipped`` (group → why it has none).
    """

    name = "spectrum"
    folder_name = "spectrum_tokenizers"

    def __init__(self, config: SpectrumTokenizerConfig | None = None) -> None:
        config = SpectrumTokenizerConfig(quantizer=KMeansConfig()) if config is None else config
        super().__init__(dataclasses.replace(config, quantizer=quantizer_config(config.quantizer)))
        self.codecs: dict[str, GroupCodec] = {}
        self.skipped: dict[str, str] = {}

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups that have a codebook, in the order of the data configuration."""
        return tuple(self.codecs)

    def length(self, group: str) -> int:
        """Tokens per spectrum of a group."""
        return self._codec(group).length

    def _codec(self, group: str) -> GroupCodec:
        if group not in self.codecs:
            why = f"; {self.skipped[group]}" if group in self.skipped else ""
            raise ArtifactError(
                f"a group with a codebook: {', '.join(self.codecs)}", got=f"{group}{why}", where="spectrum tokenizer"
            )
        return self.codecs[group]

    def _chosen(self, data: DataConfig) -> dict[str, SpectrumGroupConfig]:
        """Configured groups that the tokenizer covers.

        Raises:
            ConfigError: ``tokenizer.spectrum.groups`` names a group that the data does not have.
        """
        names = list(data.spectra) if self.config.groups is None else list(self.config.groups)
        for name in (*names, *self.config.patch_sizes):
            if name not in data.spectra:
                near = difflib.get_close_matches(name, data.spectra, 1, 0.0)
                where = "tokenizer.spectrum.groups, patch_sizes"
                raise ConfigError("a group of data.spectra", got=name, where=where, repair=f"nearest: {near}")
        return {name: config for name, config in data.spectra.items() if name in names}

    def layout(self, data: DataConfig) -> dict[str, Any]:
        return {"spectra": plain(self._chosen(data))}

    # ----------------------------------------------------------------------------------- fitting

    def fit(
        self,
        cubes: Sequence[Datacube],
        splits: Mapping[str, np.ndarray],
        data: DataConfig,
        run: RunContext | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Learn one codebook per group from training rows and report on held-out rows.

        Raises:
            DataError: no group has a single spectrum in the training rows.
        """
        rows, log = self._start_fit(cubes, splits, data, seed), self._log(run)
        self.codecs, self.skipped, report = {}, {}, {}
        for group in (chosen := self._chosen(data)):
            found: dict[str, int] = {}
            batches = self._batches(cubes, rows.fit, data, group, found)
            codec, n_fit = fit_group(batches, group, data.spectra[group], self.config, seed)
            if codec is None:
                self.skipped[group] = _why_none(found, data.spectra[group])
                log.warning("spectrum group %s: %s; it gets no codebook", group, self.skipped[group])
                continue
            self.codecs[group], wanted = codec, self.config.quantizer.n_codes
            if codec.quantizer.n_codes < wanted:
                counts = codec.quantizer.n_codes, wanted, n_fit
                log.warning("spectrum group %s: %d codes instead of %d (%d training patches)", group, *counts)
            entry = self._report_group(group, self._batches(cubes, rows.held_out, data, group), data)
            split = rows.held_out_name
            if not entry["n_spectra"]:  # a rare group may have nothing in the validation split
                split = "train"
                entry = self._report_group(group, self._batches(cubes, rows.fit, data, group), data)
            report[group] = entry | {"n_fit_patches": n_fit, "split": split}
        if not self.codecs:
            columns = ", ".join(config.flux for config in chosen.values())
            raise DataError(
                "a spectrum in at least one group",
                got=f"none in {sum(int(m.sum()) for m in rows.fit.values())} training objects"
                + "".join(f"; {group}: {why}" for group, why in self.skipped.items() if why != NO_SPECTRUM),
                where=f"columns {columns or '(no groups)'}",
                repair="check data.spectra, or leave this tokenizer out (tokenizer.spectrum=null)",
            )
        arrays = {group: entry.pop("arrays") for group, entry in report.items()}
        bits = sum(entry["bits_per_object"] for entry in report.values())
        skipped = dict(self.skipped)
        return self._finish_fit({"groups": report, "skipped": skipped, "bits_per_object": bits, "arrays": arrays})

    @staticmethod
    def _batches(
        cubes: Sequence[Datacube], masks: Mapping[str, np.ndarray], data: DataConfig, group: str,
        found: dict[str, int] | None = None,
    ) -> Iterator[SpectrumBatch]:  # fmt: skip
        """Batches of the group's spectra in the chosen rows of all cubes; what was found is counted in ``found``."""
        names = spectrum_columns(data.spectra[group])
        for cube in cubes:
            if masks[cube.field].any():
                for table in cube.batches(names, rows=data.batch_rows, row_mask=masks[cube.field]):
                    batch = read_spectra(table, data, group)
                    if found is not None:
                        merge_counts(found, batch.counts)
                    if batch.present.any():
                        yield batch

    # ------------------------------------------------------------------------- encoding, decoding

    def encode(self, group: str, batch: SpectrumBatch) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n, L) uint16 and ``present`` (n,); the codes of an object that is not present mean nothing.

        Raises:
            ArtifactError: the group has no codebook, or the batch has another number of pixels.
        """
        codec = self._codec(group)
        if batch.flux.shape[1] != codec.n_pixels:
            raise ArtifactError(f"{codec.n_pixels} pixels, as fitted", got=batch.flux.shape[1], where=group)
        tokens = np.zeros((len(batch.flux), codec.length), dtype=np.uint16)
        seen = np.asarray(batch.present, dtype=bool)
        if seen.any():
            features = codec.features(
                batch.flux[seen], batch.precision[seen], batch.has_ivar[seen], self.config.precision_weight
            )
            codes = codec.quantizer.encode(features.reshape(-1, features.shape[-1]))
            tokens[seen] = codes.reshape(-1, codec.length)
        return tokens, seen

    def sigma(self, group: str, batch: SpectrumBatch) -> np.ndarray:
        """Standard errors (n, L) float16 of the tokens that :meth:`encode` gives, in their codebook's units."""
        codec = self._codec(group)
        precision = batch.precision * codec.spread
        return patch_sigma(precision, batch.has_ivar, codec.patch_size, codec.scale)

    def decode_normalized(self, group: str, tokens: np.ndarray) -> np.ndarray:
        """Flux (n, P) float32 in units of each spectrum's scale."""
        codec = self._codec(group)
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.shape[1] != codec.length:
            raise DataError(f"tokens of shape (n, {codec.length})", got=tokens.shape, where=group)
        entries = codec.quantizer.decode(tokens.reshape(-1).astype(np.int64))
        return self.decode_features(group, entries.reshape(len(tokens), codec.length, -1))

    def decode_features(self, group: str, entries: np.ndarray) -> np.ndarray:
        """Flux (n, P) float32 in units of each spectrum's scale, from codebook entries or means of them (n, L, 2 p)."""
        codec = self._codec(group)
        return join(entries[..., : codec.patch_size], codec.n_pixels) * codec.spread + codec.center

    def decode(self, group: str, tokens: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Flux (n, P) float32 in the group's physical unit, from codes (n, L) and scales (n,)."""
        return self.decode_normalized(group, tokens) * np.asarray(scale, dtype=np.float32)[:, None]

    def codebooks(self) -> dict[str, Codebook]:
        """Entries (C, 2 p) in feature space: p fluxes, then p weighted log precisions."""
        return {group: codec.quantizer.codebook for group, codec in self.codecs.items()}

    # ------------------------------------------------------------------------------------- report

    def _report_group(self, group: str, batches: Iterator[SpectrumBatch], data: DataConfig) -> dict[str, Any]:
        """Rate and error of one group; errors are in units of each spectrum's scale, and of its noise."""
        codec = self._codec(group)
        sums, usage = ErrorSums(codec.n_pixels), np.zeros(codec.quantizer.n_codes, dtype=np.int64)
        residuals, examples, n = Reservoir(REPORT_PIXELS, 1, 0), [], 0
        for batch in batches:
            tokens, present = self.encode(group, batch)
            flux, precision, tokens = batch.flux[present], batch.precision[present], tokens[present]
            decoded, valid = self.decode_normalized(group, tokens), precision > 0
            known = np.where(batch.has_ivar[present, None], precision, 0.0)
            sums.add(flux, decoded, valid, known)
            usage += np.bincount(tokens.reshape(-1), minlength=len(usage))
            noise = known > 0
            residuals.add((np.abs(flux - decoded) * known)[noise][:, None])
            n += len(tokens)
            if len(examples) < N_EXAMPLES:
                scale = batch.scale[present, None]
                stack = (flux * scale, decoded * scale, (precision / scale) ** 2)
                examples += list(np.stack(stack, axis=1)[: N_EXAMPLES - len(examples)])
        bits, shown = bits_per_symbol(usage), np.array(examples).reshape(-1, 3, codec.n_pixels)
        return {
            "n_spectra": n,
            "n_codes": codec.quantizer.n_codes,
            "n_tokens": codec.length,
            "patch_size": codec.patch_size,
            "rmse_normalized": sums.total_rmse(),
            "fraction_of_variance": sums.total_fraction_of_variance(),
            "chi2_per_pixel": sums.chi2(),
            "median_error_over_noise": float(np.median(residuals.rows)) if len(residuals.rows) else float("nan"),
            "bits_per_object": bits * codec.length,
            "codes_used": codes_used(usage),
            "perplexity": perplexity(usage),
            "unit": data.spectra[group].unit,
            "arrays": {"wave": grid(data.spectra[group])}
            | dict(zip(("flux", "reconstruction", "ivar"), shown.transpose(1, 0, 2), strict=True)),
        }

    # ------------------------------------------------------------------------------------ storage

    def _write(self, folder: Path) -> list[Path]:
        parameters = {
            group: {"n_pixels": codec.n_pixels, "patch_size": codec.patch_size, "neutral": codec.neutral}
            for group, codec in self.codecs.items()
        }
        arrays = {
            "groups": np.array(self.groups, dtype=np.str_),
            "config_json": np.array(json.dumps(plain(self.config))),
            "groups_json": np.array(json.dumps(parameters)),
            "skipped_json": np.array(json.dumps(self.skipped)),
            "layout_json": np.array(json.dumps(self.layout_)),
            "inputs_json": np.array(json.dumps(self.inputs_)),
        }
        files = []
        for group, codec in self.codecs.items():
            state = codec.quantizer.state()
            arrays |= {f"{key}_{group}": value for key, value in state.items()}
            arrays |= {f"coefficient_mean_{group}": codec.center, f"coefficient_std_{group}": codec.spread}
            files.append(folder / f"spectrum_kmeans_{group}.joblib")
            io.save_joblib(files[-1], {"centroids": state["centroids"], "counts": state["counts"]})
        arrays["centroids"] = self._documented_centroids()
        io.save_npz(folder / FILE_NAME, arrays)
        for stale in set(folder.glob("spectrum_kmeans_*.joblib")) - set(files):
            stale.unlink()  # a group of an earlier fit would look like part of this one
        return [*files, folder / FILE_NAME]

    def _documented_centroids(self) -> np.ndarray:
        """The member ``centroids``: ``(V, D)`` of a single group, else all groups, zero-padded, ``(G, V, D)``."""
        books = [codec.quantizer.codebook.entries for codec in self.codecs.values()]
        if len(books) == 1:
            return books[0]
        stack = np.zeros((len(books), *np.max([book.shape for book in books], axis=0)), dtype=np.float32)
        for place, book in zip(stack, books, strict=True):
            place[: len(book), : book.shape[1]] = book
        return stack

    @classmethod
    def _read(cls, folder: Path) -> Self:
        arrays = io.load_npz(folder / FILE_NAME)
        tokenizer = cls(SpectrumTokenizerConfig(**json.loads(str(arrays["config_json"]))))
        tokenizer.skipped = json.loads(str(arrays["skipped_json"]))
        tokenizer.layout_ = json.loads(str(arrays["layout_json"]))
        tokenizer.inputs_ = json.loads(str(arrays["inputs_json"]))
        for group, values in json.loads(str(arrays["groups_json"])).items():
            quantizer = KMeans.from_state({key: arrays[f"{key}_{group}"] for key in ("centroids", "counts")})
            center, spread = arrays[f"coefficient_mean_{group}"], arrays[f"coefficient_std_{group}"]
            tokenizer.codecs[group] = GroupCodec(center=center, spread=spread, quantizer=quantizer, **values)
        return tokenizer
