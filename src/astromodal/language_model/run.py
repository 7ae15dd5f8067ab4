"""One training run of the language model, put together from its parts: tokens, sequences, model, loss, loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ask.questions import Plan, questions_to
from ..config.schema import Config, ObjectiveFigure, Order, ScalarConfig, TrainingConfig
from ..data.scalars import inverse_transform, transform
from ..errors import ConfigError
from ..files.io import write_json
from ..loss.language_model import LanguageModelObjective
from ..loss.sampling import uses_errors
from ..machine.random import seed_everything
from ..models import CausalTransformerLM
from ..models.values import token_values
from ..parallel.rank import is_main, rank, world_size
from ..runs.run import RunContext
from ..sequences import BucketSampler, SequenceDataset, SequenceLoader, build_layout, build_sequences
from ..sequences.asking import named_questions
from ..sequences.layout import Segment
from ..sequences.redraw import Redraw
from ..tokenizers import TokenizerSet
from ..tokenizers.fitted import needed
from ..tokens import TokenStore
from ..training.checkpoints.checkpoint import load_weights
from ..training.loop import LoopResult, TrainingLoop
from ..training.watch.monitor import check_monitor
from ..vocabulary.modalities import MODALITIES
from ..vocabulary.vocab import stages_of
from .baselines import TypeEntries, baseline_metrics
from .examples import expected_entries, image_examples, spectrum_examples
from .gradient_shares import ledger_of
from .growing import grow
from .object_errors import object_errors
from .physical import PhysicalCallback, PhysicalValidation
from .question_score import QuestionScore

if TYPE_CHECKING:
    from ..sequences.packed import PackedSequences
    from .baselines import Chunk


class Chunks:
    """A split of packed sequences as chunks that can be read more than once."""

    def __init__(self, packed: PackedSequences, split: str) -> None:
        self.packed, self.split = packed, split

    def __iter__(self) -> Iterator[Chunk]:
        return self.packed.chunks(self.split)


class LanguageModelRun:
    """Everything that ``train_lm.py`` builds before it trains; a mistake in any part shows before any work.

    Args:
        config: the whole configuration.
        run: the open run.
        record: plain configuration that goes into the checkpoints.

    Raises:
        ArtifactMissingError: tokenizers or tokens are missing; the message names the command.
        ArtifactError: tokens were made with other tokenizers.
        ConfigError: the longest sequence does not fit into ``model.max_len``.
    """

    def __init__(self, config: Config, run: RunContext, record: dict[str, Any]) -> None:
        self.config, self.run = config, run
        self.tokenizers = TokenizerSet.load(Path(config.paths.store) / "tokenizers")
        self.store = store = TokenStore.of(config)
        store.check_tokenizers(self.tokenizers)
        sequence = config.sequence
        self.layout = build_layout(
            self.tokenizers, sequence.modalities, config.model.max_len, config.vocab, config.data
        )
        self.vocab = self.layout.vocab
        self.asked = self._asked(record["sequence"]) if config.objective == ObjectiveFigure.prediction else None
        columns = [] if self.asked is None else [question.name for question in self.asked.scalars]
        check_monitor(config.training.monitor, self.vocab, {s.modality for s in self.layout.segments}, columns)
        self.questions = named_questions(sequence.questions, self.layout)
        if is_main():
            write_json(run.dir / "vocab_spec.json", self.vocab.to_dict())
        self.packed = build_sequences(
            store,
            self.layout,
            sequence.missing,
            workers=config.hardware.workers,
            run_id=run.id,
            log=run.log,
            progress=run.progress,
        )
        run.add_input("tokens", store.fingerprint)
        run.add_input("sequences", self.packed.fingerprint)
        for name, fingerprint in self.tokenizers.fingerprints.items():
            run.add_input(f"{name}_tokenizer", fingerprint)
        self.codebooks = self.tokenizers.codebooks()
        self.record = record | {
            "sequences": self.packed.fingerprint,
            "vocab_size": self.vocab.vocab_size,
            "n_types": self.vocab.n_types,
            "grid_width": self.grid_width,
            "base_image": self.vocab.base_image,
            "base_scalar": self.vocab.base_scalar,
            "base_spectrum": self.vocab.base_spectrum,
            "vocab_spec": self.vocab.to_dict(),
        }
        self.objective = self._objective()
        self.physical: PhysicalCallback | None = None

    @property
    def grid_width(self) -> int:
        """Tokens per row of the image grid; 24 where there are no images, as with cutouts of the default size."""
        return int(np.sqrt(self.layout.image_length)) or 24

    def _asked(self, sequence: dict[str, Any]) -> Plan:
        """What is asked of the model while it is trained, and after.

        Raises:
            ConfigError: it cannot be asked, or no scalar column is, which alone has a score.
        """
        plan = questions_to(self.layout, self.tokenizers, sequence, self.config.evaluate)
        if not plan.scalars:
            raise ConfigError(
                "a scalar column among what is asked, with objective=prediction",
                got=self.config.evaluate.predict,
                where="evaluate.predict",
            )
        return plan

    def _objective(self) -> LanguageModelObjective:
        seed_everything(self.config.seed)  # the initial weights are those of the seed
        model = self.config.model
        network = CausalTransformerLM(
            vocab_size=self.vocab.vocab_size,
            n_types=self.vocab.n_types,
            d_model=model.d_model,
            n_layers=model.n_layers,
            n_heads=model.n_heads,
            d_ff=model.d_ff,
            dropout=model.dropout,
            max_len=model.max_len,
            tie_head=model.tie_head,
            grid_width=self.grid_width,
            activation_checkpointing=model.activation_checkpointing,
            values=token_values(self.vocab, self.codebooks, model.values),
        )
        return LanguageModelObjective(
            network,
            self.vocab,
            self.codebooks,
            self.config.loss,
            self.config.seed,
            next_types=self.config.sequence.next_types,
        )

    def loader(self, split: str, *, values: bool = False) -> SequenceLoader:
        """Batches of a split: shuffled and in the configured order for training, always the same otherwise.

        A model of the asked order is validated as it is trained, by what is asked of each object in epoch 0.
        """
        training, train, order = self.config.training, split == "train", self.config.sequence.order
        dataset = SequenceDataset(
            self.packed,
            split,
            order=order if train or order == Order.ask else "fixed",
            seed=self.config.seed,
            max_len=self.config.model.max_len,
            with_values=values,
            questions=self.questions,
            with_sigma=self.objective.reads_errors or (train and uses_errors(self.config.loss)),
            redraw=self.redraw() if train else None,
        )
        # figures that are not summed over the ranks are made from everything, on each of them
        shard = {} if values else {"rank": rank(), "world_size": world_size()}
        sampler = BucketSampler(
            dataset.lengths,
            training.batch_size,
            seed=self.config.seed,
            shuffle=train,
            **shard,
        )
        return SequenceLoader(
            dataset,
            sampler,
            num_workers=training.num_workers if train else 0,
            pin_memory=training.pin_memory,
            persistent_workers=training.persistent_workers,
            prefetch_factor=training.prefetch_factor,
        )

    def redraw(self) -> Redraw | None:
        """What shows scalars within their errors; None: they are shown as they were observed."""
        amount, scalar = self.config.sequence.redraw, self.tokenizers.scalar
        return Redraw(scalar, self.vocab, amount, self.config.seed) if amount and scalar is not None else None

    def fit(self, resume: str | None) -> LoopResult:
        """Train to the end, or on from ``resume``."""
        config, run = self.config, self.run
        has_val = self.packed.n_rows("val") > 0
        if not has_val:
            run.log.warning("no validation objects: raise data.splits.val_fraction to be able to judge this run")
        rows = {split: self.packed.n_rows(split) for split in ("train", "val", "test")}
        run.log.info(
            "sequences: %s; longest %d; vocabulary %d", rows, self.packed.summary["longest"], self.vocab.vocab_size
        )
        callbacks = ledger_of(self.objective)
        if has_val and self.codebooks.scalar is not None and "scalar" in self.layout.modalities:
            self.physical = PhysicalCallback(
                self._physical(), self.loader("val", values=True), next_types=config.sequence.next_types
            )
            callbacks.append(self.physical)
        if has_val and self.asked is not None:
            size = config.evaluate.batch_size
            question = QuestionScore(
                self.asked, self.store, self.layout, self.tokenizers, batch_size=size, seed=config.seed
            )
            callbacks.append(question)
        self.loop = self.training_loop(
            config.training,
            callbacks=callbacks,
            val_loader=self.loader("val") if has_val else None,
            tracker=run.tracker,
            output_dir=run.dir,
            progress=run.progress,
            resume=resume,
            init_from=self._grown(resume),
        )
        run.record(model=self.loop.summary())
        result = self.loop.fit()
        run.record(arithmetic=asdict(self.loop.network.choice))
        return result

    def _grown(self, resume: str | None) -> str | None:
        """``init_from`` as the loop is to follow it: not at all, where a model of other columns was grown from it."""
        start = self.config.init_from
        if start is None or (resume is not None and not Path(start).exists()):  # a run that goes on does without
            return start
        found = grow(self.objective.model, self.vocab, start, self.run.log)
        if found is None:
            return start
        self.run.record(grown={"from": start, **asdict(found)})
        return None

    def training_loop(self, training: TrainingConfig, **keywords: Any) -> TrainingLoop:
        """The loop over this run's objective and training split; ``keywords`` are those of :class:`TrainingLoop`."""
        config = self.config
        return TrainingLoop(
            self.objective,
            self.loader("train"),
            training=training,
            optimizer=config.optimizer,
            schedule=config.schedule,
            hardware=config.hardware,
            log=self.run.log,
            seed=config.seed,
            config_record=self.record,
            **keywords,
        )

    def _physical(self) -> PhysicalValidation:
        configs = self._columns()
        return PhysicalValidation(
            self.vocab,
            self.tokenizers.scalar_codebook(),
            {name: partial(transform, config=c) for name, c in configs.items()},
            {name: partial(inverse_transform, config=c) for name, c in configs.items()},
        )

    def _columns(self) -> dict[str, ScalarConfig]:
        return needed(self.tokenizers.scalar, "scalar").configs

    # -------------------------------------------------------------------------------- after training

    def summary(self, result: LoopResult) -> dict[str, Any]:
        """Metrics of the best weights on held-out sky beside the trivial baselines."""
        summary: dict[str, Any] = {
            "steps": result.steps,
            "epochs": result.epochs,
            "best_step": result.best_step,
            "model": {},
        }
        if self.packed.n_rows("val") == 0:
            return summary
        best = self.run.dir / "best_model.pt"
        if best.exists():
            load_weights(self.loop.model, best)
        metrics = self.loop.evaluate(self.loader("val"), averaged=False)
        if self.physical is not None:
            metrics |= self.physical.on_validation_end(self.loop, metrics)
        books = self.codebooks
        entries = TypeEntries(self.vocab, books.image, books.spectrum, books.scalar)
        baselines = baseline_metrics(
            Chunks(self.packed, "train"), Chunks(self.packed, "val"), self.vocab, entries, self.config.model.max_len
        )
        columns = {}
        for name, errors in (self.physical.results if self.physical else {}).items():
            if errors.n:
                unit = self._columns()[name].unit
                columns[name] = {
                    "unit": unit,
                    "n": errors.n,
                    "mae": errors.absolute / errors.n,
                    "mae_marginal": errors.marginal_absolute / errors.n,
                }
        return summary | {"model": metrics, "baselines": baselines, "columns": columns}

    def object_errors(self) -> dict[str, np.ndarray]:
        """Errors of each validation object with the weights of :meth:`summary`, for comparisons object by object."""
        if self.packed.n_rows("val") == 0:
            return {}
        return object_errors(self.loop.objective, self.loader("val"), self.loop.precision, self.config.seed)

    def scalar_panels(self) -> list[dict[str, Any]]:
        """Predicted and observed values of each column, for the plot."""
        results = self.physical.results if self.physical else {}
        return [
            {
                "name": name,
                "unit": self._columns()[name].unit,
                "true": np.concatenate(e.true),
                "predicted": np.concatenate(e.predicted),
            }
            for name, e in results.items()
            if e.n > 1
        ]

    def examples(self) -> tuple[tuple[np.ndarray, np.ndarray, list[str]] | None, list[dict[str, Any]]]:
        """Cutouts (from tokens, from the model, bands) and spectra of a few validation objects."""
        images = None
        spectra: list[dict[str, Any]] = []
        if self.packed.n_rows("val") == 0:
            return images, spectra
        drawn = [s for s in self.layout.segments if s.modality != "scalar" and not MODALITIES[s.modality].outside]
        segments = {segment.name: segment for segment in drawn}
        for name, stages in stages_of(list(segments)).items():
            # the fluxes of rings, a part of another length, only correct what the grid of an image shows
            stages = [stage for stage in stages if segments[stage].length == segments[name].length]
            found = [self._expected(segments[stage], 3 if name == "image" else 1) for stage in stages]
            codes = found[0][0] if len(found) == 1 else np.stack([codes for codes, _ in found], axis=2)
            # of each stage given the true codes of the stages before
            expected = reduce(np.add, (expected for _, expected in found))
            if len(codes) and name == "image":
                tokenizer = needed(self.tokenizers.image, name).use(self.config.hardware)
                images = (*image_examples(tokenizer, codes, expected), list(tokenizer.scaling_.bands))
            elif len(codes):
                spectra += spectrum_examples(needed(self.tokenizers.spectrum, "spectrum"), name, codes, expected)
        return images, spectra

    def _expected(self, segment: Segment, n_objects: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n, L) and the model's expected entries (n, L, D) of one part of the first objects that have it."""
        is_image = segment.name == "image"
        book = self.tokenizers.image_codebook() if is_image else self.codebooks.spectrum[segment.name]
        return expected_entries(
            self.loop.model,
            self.loader("val"),
            self.vocab,
            segment.name,
            book,
            segment.length,
            self.loop.device,
            next_types=self.config.sequence.next_types,
            n_objects=n_objects,
        )
