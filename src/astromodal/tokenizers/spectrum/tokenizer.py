"""Spectra as tokens: per group, a quantizer over patches of normalised flux, each pixel weighted by its precision.

A spectrum arrives divided by its own robust scale, on its group's grid, with precision = sqrt(ivar) in the same unit.
One token stands for ``patch_size`` pixels of flux; with a ``precision_weight`` also for their
``precision_weight * log1p(precision)`` (with ``patch_size: 1`` the (flux, precision) pair). A code is chosen
by the pixels' weights (:func:`.patches.pixel_weights`), so that masked pixels count for nothing. Each group has its own
codebook and covers its whole range (:mod:`.patches` says how the end is padded). Spectra without ivar count as if
of the group's median precision. Coefficient vectors are standardised per coefficient first.

With a codec, features are the latents of a network that is trained on the group's spectra (:mod:`.learned_group`).

A quantizer with S > 1 codes per patch makes S token streams of a group, its *parts*: ``desi_b``, ``desi_b.1``, …
(``core/vocab.py``). Token files, vocabulary and losses treat every part as a group of spectra.

Shape legend: n objects, P pixels, p pixels per patch, L patches, C codes, S stages.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...config.schema import DataConfig, HardwareConfig, KMeansConfig, SpectrumGroupConfig, SpectrumTokenizerConfig
from ...data.findings import Findings, describe, likely_cause, lost_rows
from ...data.spectra import SpectrumBatch, grid, n_pixels, read_spectra, spectrum_columns
from ...errors import ArtifactError, ConfigError, DataError
from ...metrics import ErrorSums, chi2_per_pixel
from ...metrics.spectra import errors_by_snr, signal_to_noise
from ...quantizers import Reservoir, quantizer_config, usage_figures
from ...vocabulary.codebook import Codebook
from ...vocabulary.vocab import stage_name
from ..base import Tokenizer, plain
from ..passes import HEAVY_ROWS, Part, over_parts, parts
from .bundle import FILE_NAME, read_bundle, write_bundle
from .groups import GroupCodec, PatchSample, check_group, fit_group
from .kept import kept_by_codes

if TYPE_CHECKING:
    from ...data.datacube import Datacube
    from ...runs.run import RunContext
    from .learned_group import LearnedGroup

__all__ = ["FILE_NAME", "SpectrumTokenizer"]

REPORT_PIXELS = 200_000  # residuals kept for the median
N_EXAMPLES = 4  # spectra per group for plots
NO_SPECTRUM = "no spectrum in the training split"


def _codec_settings(codec: Any) -> Any:
    """The typed settings of a codec; None for patches as they are, so that they need no torch."""
    if codec is None or plain(codec).get("name") == "patches":
        return None
    from ...codecs.base import codec_config

    return codec_config(plain(codec))


def _why_none(found: Mapping[str, int], config: SpectrumGroupConfig) -> str:
    """Why a group without a usable spectrum has none."""
    lost = {reason: number for reason, number in found.items() if lost_rows({reason: number})}
    if not lost:
        return NO_SPECTRUM
    n, wanted = lost.pop("length_mismatch", 0), f"that of {config.wave}" if config.wave else n_pixels(config)
    wrong = [f"{n} spectra whose length is not {wanted}"] if n else []
    if lost:
        wrong.append(f"{describe(lost)}; likely cause: {likely_cause(lost)}")
    return ", ".join(wrong)


class SpectrumTokenizer(Tokenizer):
    """One codebook per group of spectra.

    Learned: ``codecs`` (group → :class:`GroupCodec`, or :class:`~.learned_group.LearnedGroup` with a codec) and
    ``skipped`` (group → why it has none).

    Args:
        hardware: where networks run; default: as ``HardwareConfig()`` says.
    """

    name = "spectrum"

    def __init__(self, config: SpectrumTokenizerConfig | None = None, hardware: HardwareConfig | None = None) -> None:
        config = SpectrumTokenizerConfig(quantizer=KMeansConfig()) if config is None else config
        codec = _codec_settings(config.codec)
        super().__init__(dataclasses.replace(config, quantizer=quantizer_config(config.quantizer), codec=codec))
        self.hardware = HardwareConfig() if hardware is None else hardware
        self.codecs: dict[str, GroupCodec | LearnedGroup] = {}
        self.skipped: dict[str, str] = {}

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups that have a codebook, in the order of the data configuration."""
        return tuple(self.codecs)

    @property
    def parts(self) -> dict[str, tuple[str, int]]:
        """Names of all token streams, coarse to fine within each group, with the group and the stage of each."""
        stages = {group: range(codec.quantizer.n_stages) for group, codec in self.codecs.items()}
        return {stage_name(group, s): (group, s) for group in stages for s in stages[group]}

    def length(self, part: str) -> int:
        """Tokens per spectrum of a part (a group with one code per patch is one part)."""
        return self._codec(self.parts.get(part, (part, 0))[0]).length

    def sizes(self) -> dict[str, Any]:
        groups = {
            name: {
                "n_codes": self.codecs[group].quantizer.sizes[stage],
                "n_tokens": self.length(name),
                "patch_size": self.codecs[group].patch_size,
            }
            for name, (group, stage) in self.parts.items()
        }
        return {"groups": groups, "skipped": dict(self.skipped)}

    def _codec(self, group: str) -> GroupCodec | LearnedGroup:
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
        names = self.config.groups or [name for name, group in data.spectra.items() if group.tokenize]
        for name in names:
            if name not in data.spectra:
                near = difflib.get_close_matches(name, data.spectra, 1, 0.0)
                where = "tokenizer.spectrum.groups"
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
        self.codecs, self.skipped, report, findings = {}, {}, {}, Findings()
        if others := [name for name in self.config.patch_sizes if name not in data.spectra]:
            log.info("tokenizer.spectrum.patch_sizes: %s, groups that this survey does not have", ", ".join(others))
        for group in (chosen := self._chosen(data)):
            codec, n_fit = self._fit_group(cubes, rows.fit, data, group, seed, run, findings)
            if codec is None:
                found = findings.totals().get(f"spectrum {group}", {})
                self.skipped[group] = _why_none(found, data.spectra[group])
                log.warning("spectrum group %s: %s; it gets no codebook", group, self.skipped[group])
                continue
            self.codecs[group] = codec
            sizes, wanted = codec.quantizer.sizes, getattr(self.config.quantizer, "n_codes", 0)
            if min(sizes) < wanted:
                counts = " + ".join(map(str, sizes)), wanted, n_fit
                log.warning("spectrum group %s: %s codes instead of %d (%d training patches)", group, *counts)
            entry = self._report_group(group, self._batches(cubes, rows.held_out, data, group), data)
            split = rows.held_out_name
            if not entry["n_spectra"]:  # a rare group may have nothing in the validation split
                split = "train"
                entry = self._report_group(group, self._batches(cubes, rows.fit, data, group), data)
            report[group] = entry | {"n_fit_patches": n_fit, "split": split} | getattr(codec, "figures", {})
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
        kept = kept_by_codes(self, cubes, rows.held_out, data)
        whole = {"groups": report, "skipped": skipped, "bits_per_object": bits, "kept": kept, "arrays": arrays}
        return self._finish_fit(whole, findings, run)

    def _fit_group(
        self,
        cubes: Sequence[Datacube],
        masks: Mapping[str, np.ndarray],
        data: DataConfig,
        group: str,
        seed: int,
        run: RunContext | None,
        findings: Findings,
    ) -> tuple[GroupCodec | LearnedGroup | None, int]:
        """Features and codebook of one group, and the number of vectors seen; None without a spectrum."""
        group_config = data.spectra[group]
        if self.config.codec is None:
            check_group(group, self.config)
            drawn, of = PatchSample(group, group_config, self.config), parts(cubes, masks, HEAVY_ROWS)

            def take(got: tuple[PatchSample, dict[str, Any]]) -> dict[str, Any]:
                drawn.merge(got[0])
                return got[1]

            found = over_parts(_patches, of, self.workers, (self.config, data, group, seed), take)
            for part, counts in zip(of, found, strict=True):
                findings.add_field(part.cube.field, counts)
            return fit_group(drawn, group_config, self.config, seed)
        from .learned_group import fit_learned_group

        batches = self._batches(cubes, masks, data, group, findings)
        self._log(run).info("spectrum group %s: training the codec %s", group, self.config.codec.name)
        return fit_learned_group(batches, group, group_config, self.config, seed, run, self.hardware)

    @staticmethod
    def _batches(
        cubes: Sequence[Datacube],
        masks: Mapping[str, np.ndarray],
        data: DataConfig,
        group: str,
        findings: Findings | None = None,
    ) -> Iterator[SpectrumBatch]:
        """Batches of the group's spectra in the chosen rows of all cubes; what was found is added to ``findings``."""
        names = spectrum_columns(data.spectra[group])
        for cube in cubes:
            mask = masks[cube.field]
            if mask.any():
                for table in cube.batches(names, rows=data.batch_rows, row_mask=mask):
                    batch = read_spectra(table, data, group)
                    if findings is not None:
                        findings.add_spectra(cube.field, group, batch)
                    if batch.present.any():
                        yield batch

    # ------------------------------------------------------------------------- encoding, decoding

    def encode(self, group: str, batch: SpectrumBatch) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n, L) uint16 and ``present`` (n,); the codes of an object that is not present mean nothing.

        With S > 1 codes per patch, (n, L, S).

        Raises:
            ArtifactError: the group has no codebook, or the batch has another number of pixels.
        """
        codec, clean, seen = self._clean(group, batch)
        return self._codes(codec, clean, seen), seen

    def encode_parts(self, group: str, batch: SpectrumBatch) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each part of the group: codes (n, L), ``present`` (n,) and :meth:`sigma` (n, L), as token files hold them.

        Raises:
            ArtifactError: as :meth:`encode`.
        """
        codec, clean, seen = self._clean(group, batch)
        stages = self._codes(codec, clean, seen).reshape(len(seen), codec.length, -1)
        return {
            stage_name(group, s): (stages[..., s], seen, self._errors(codec, clean, seen, s, stages[seen, :, 0]))
            for s in range(stages.shape[2])
        }

    def sigma(self, group: str, batch: SpectrumBatch, stage: int = 0) -> np.ndarray:
        """Standard errors (n, L) float16 of one stage's tokens, in units of that stage's codebook; absent ones 0.

        The noise of what a finer stage codes is that of the spectrum: earlier stages only subtract a code's entry.
        """
        return self._errors(*self._clean(group, batch), stage)

    def _clean(self, group: str, batch: SpectrumBatch) -> tuple[GroupCodec | LearnedGroup, Any, np.ndarray]:
        """The group's codec, what it codes of the spectra that are present, and which are (n,)."""
        codec = self._codec(group)
        if batch.flux.shape[1] != codec.n_pixels:
            raise ArtifactError(f"{codec.n_pixels} pixels, as fitted", got=batch.flux.shape[1], where=group)
        seen = np.asarray(batch.present, dtype=bool)
        return codec, codec.clean(batch.only(seen)), seen

    @staticmethod
    def _codes(codec: GroupCodec | LearnedGroup, clean: Any, seen: np.ndarray) -> np.ndarray:
        stages = codec.quantizer.n_stages
        shape = (codec.length, stages) if stages > 1 else (codec.length,)
        tokens = np.zeros((len(seen), *shape), dtype=np.uint16)
        if seen.any():
            X, weights = codec.features(clean)
            flat = (-1, X.shape[-1])
            codes = codec.quantizer.encode(X.reshape(flat), None if weights is None else weights.reshape(flat))
            tokens[seen] = codes.reshape(-1, *shape)
        return tokens

    @staticmethod
    def _errors(
        codec: GroupCodec | LearnedGroup, clean: Any, seen: np.ndarray, stage: int, codes: np.ndarray | None = None
    ) -> np.ndarray:
        errors = np.zeros((len(seen), codec.length), np.float16)
        errors[seen] = codec.sigma(clean, stage, codes)
        return errors

    def decode_normalized(self, group: str, tokens: np.ndarray) -> np.ndarray:
        """Flux (n, P) float32 in units of each spectrum's scale, from codes (n, L), or (n, L, S) of all stages."""
        codec = self._codec(group)
        tokens, stages = np.asarray(tokens), codec.quantizer.n_stages
        shape = (codec.length,) if stages == 1 else (codec.length, stages)
        if tokens.ndim < 2 or tokens.shape[1:] != shape:
            raise DataError(f"tokens of shape (n, {', '.join(map(str, shape))})", got=tokens.shape, where=group)
        entries = codec.quantizer.decode(tokens.reshape(-1, *shape[1:]).astype(np.int64))
        return self.decode_features(group, entries.reshape(len(tokens), codec.length, -1))

    def decode_parts(self, group: str, tokens: Sequence[np.ndarray]) -> np.ndarray:
        """The same from the codes (n, L) of each part of the group, coarse to fine, as token files hold them."""
        return self.decode_normalized(group, tokens[0] if len(tokens) == 1 else np.stack(tokens, axis=-1))

    def decode_features(self, group: str, entries: np.ndarray) -> np.ndarray:
        """Flux (n, P) float32 in units of each spectrum's scale, from codebook entries or means of them (n, L, D)."""
        return self._codec(group).flux(entries)

    def decode(self, group: str, tokens: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Flux (n, P) float64 in the group's physical unit, from codes (n, L) and scales (n,)."""
        return self.decode_normalized(group, tokens) * np.asarray(scale, dtype=np.float64)[:, None]

    def codebooks(self) -> dict[str, Codebook]:
        """Of each part, entries (C, D): p fluxes (then p log precisions, if these have a weight), or latents."""
        return {name: self.codecs[group].quantizer.codebooks[stage] for name, (group, stage) in self.parts.items()}

    def linear_parts(self) -> tuple[str, ...]:
        """Parts of the groups whose decoded flux is linear in the sum of the stages' entries."""
        return tuple(name for name, (group, _) in self.parts.items() if self._codec(group).linear)

    # ------------------------------------------------------------------------------------- report

    def _report_group(self, group: str, batches: Iterator[SpectrumBatch], data: DataConfig) -> dict[str, Any]:
        """Rate and error of one group; errors are in units of each spectrum's scale, and of its noise."""
        codec = self._codec(group)
        sums, usages = ErrorSums(codec.n_pixels), [np.zeros(n, dtype=np.int64) for n in codec.quantizer.sizes]
        residuals, n, objects = Reservoir(REPORT_PIXELS, 1, 0), 0, [np.zeros((0, 3))]
        examples: list[np.ndarray] = []
        for batch in batches:
            tokens, present = self.encode(group, batch)
            flux, precision, tokens = batch.flux[present], batch.precision[present], tokens[present]
            decoded, valid = self.decode_normalized(group, tokens), precision > 0
            known = np.where(batch.has_ivar[present, None], precision, 0.0)
            sums.add(flux, decoded, valid, known)
            for usage, codes in zip(usages, tokens.reshape(-1, len(usages)).T, strict=True):
                usage += np.bincount(codes, minlength=len(usage))
            noise = known > 0
            residuals.add((np.abs(flux - decoded) * known)[noise][:, None])
            ivar = np.square(known, dtype=np.float64)
            objects.append(np.stack([signal_to_noise(flux, ivar), *chi2_per_pixel(flux, decoded, ivar)], axis=1))
            n += len(tokens)
            if len(examples) < N_EXAMPLES:
                scale = batch.scale[present, None]
                stack = (flux * scale, decoded * scale, (precision / scale) ** 2)
                examples += list(np.stack(stack, axis=1)[: N_EXAMPLES - len(examples)])
        rate, shown = usage_figures(usages), np.array(examples).reshape(-1, 3, codec.n_pixels)
        return (
            rate
            | codec.quantizer.fit_figures()
            | {
                "n_spectra": n,
                "n_tokens": codec.length * len(usages),
                "patch_size": codec.patch_size,
                "rmse_normalized": sums.total_rmse(),
                "fraction_of_variance": sums.total_fraction_of_variance(),
                "chi2_per_pixel": sums.chi2(),
                "by_snr": errors_by_snr(*np.concatenate(objects).T),
                "median_error_over_noise": float(np.median(residuals.rows)) if len(residuals.rows) else float("nan"),
                "bits_per_object": rate["bits"] * codec.length,
                "unit": data.spectra[group].unit,
                "arrays": {"wave": grid(data.spectra[group])}
                | dict(zip(("flux", "reconstruction", "ivar"), shown.transpose(1, 0, 2), strict=True)),
            }
        )

    # ------------------------------------------------------------------------------------ storage

    def _write(self, folder: Path) -> list[Path]:
        return write_bundle(self, folder)

    @classmethod
    def _read(cls, folder: Path) -> Self:
        return read_bundle(cls, folder)

    def use(self, hardware: HardwareConfig) -> Self:
        """Move networks, if there are any, to where ``hardware.device`` says."""
        self.hardware = hardware
        for codec in self.codecs.values():
            if not isinstance(codec, GroupCodec):
                codec.use(hardware.device)
        return self


def _patches(
    part: Part, config: SpectrumTokenizerConfig, data: DataConfig, group: str, seed: int
) -> tuple[PatchSample, dict[str, Any]]:
    """Sample of the patches of a part of the survey, and what was found there."""
    drawn, findings = PatchSample(group, data.spectra[group], config), Findings()
    for table, ids in part.batches(spectrum_columns(data.spectra[group]), data.batch_rows):
        batch = read_spectra(table, data, group)
        findings.add_spectra(part.cube.field, group, batch)
        if batch.present.any():
            drawn.add(batch, ids, seed)
    return drawn, findings.field(part.cube.field)
