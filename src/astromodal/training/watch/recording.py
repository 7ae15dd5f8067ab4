"""What the training loop measures and writes down: metrics of steps, validations, and one record per epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...files.io import plain, write_json
from ..validation import evaluate, evaluation_mode
from .guards import check_means

if TYPE_CHECKING:
    from ..loop import TrainingLoop


def log_step(loop: TrainingLoop) -> None:
    """Read the means of the interval (the one point where the CPU waits for the GPU) and record them.

    Raises:
        TrainingError: a mean is not finite.
    """
    means = over_steps_that_have_it(check_means(loop))
    values = {k if k.startswith("optim/") else f"train/{k}": v for k, v in means.items()}
    values |= loop.learning_rates
    if loop.precision.scaler is not None:
        values["optim/loss_scale"] = loop.precision.scaler.get_scale()
    if loop.total_skipped:
        values["optim/skipped"] = float(loop.total_skipped)
    values |= _spike(loop, means.get("loss"))
    values |= loop.clock.read()
    values |= {f"optim/{name}": value for name, value in loop.quantities.items()}
    loop.tracker.log(loop.global_step, {f"{loop.metric_prefix}{key}": value for key, value in values.items()})
    for callback in loop.callbacks:
        callback.on_log(loop, values)
    loss, lr = means.get("loss", float("nan")), values["optim/lr"]
    if loop.bar is not None:
        loop.bar.update(0, loss=loss, lr=lr)
    else:
        loop.log.info(
            "step %d of %d: loss %.5g, lr %.3g, %.1f ms per step",
            loop.global_step,
            loop.total_steps,
            loss,
            lr,
            values["perf/step_ms"],
        )
    loop.meter.reset()
    loop.clock.reset()


def _spike(loop: TrainingLoop, loss: float | None) -> dict[str, float]:
    """``optim/spike``, the height in MADs, where a spike of the loss begins; it is also said."""
    height = loop.spikes.update(loss) if loss is not None else None
    if height is None:
        return {}
    if loop.is_main:
        loop.log.warning(
            "step %d: the loss jumped to %.5g, %.0f times its usual spread above the median of the last records",
            loop.global_step,
            loss,
            height,
        )
    return {"optim/spike": height}


def over_steps_that_have_it(means: dict[str, float]) -> dict[str, float]:
    """Means of ``x`` over the steps in which it occurred, where ``seen_x`` tells the share of those; else as they are.

    Most objects lack most modalities, so many steps have no image at all; as zeros they would flatter the mean.

    >>> over_steps_that_have_it({"loss": 2.0, "image": 0.2, "seen_image": 0.25, "spectrum": 0.0, "seen_spectrum": 0.0})
    {'loss': 2.0, 'image': 0.8}
    """
    kept = {name: value for name, value in means.items() if not name.startswith("seen_")}
    for name in [n.removeprefix("seen_") for n in means if n.startswith("seen_")]:
        if means[f"seen_{name}"] > 0:
            kept[name] /= means[f"seen_{name}"]
        else:
            kept.pop(name, None)
    return kept


def validate(loop: TrainingLoop) -> bool:
    """Measure, let the callbacks add, keep the best weights; True if they are the best so far.

    Raises:
        ConfigError: ``training.monitor`` is not among the metrics.
    """
    check_means(loop)
    step, prefix, monitor = loop.global_step, loop.metric_prefix, loop.training.monitor
    with loop.averaged(), evaluation_mode(loop.objective, loop.seed):
        metrics = evaluate(
            loop.objective,
            loop.val_loader,  # type: ignore[arg-type]  # asked only where there is one
            loop.precision,
            max_batches=loop.training.max_val_batches,
            check=loop.check_validation,
        )
        if "loss" in metrics:
            metrics.setdefault("score", metrics["loss"])  # an objective without a score is judged by its loss
        for callback in loop.callbacks:
            metrics.update(callback.on_validation_end(loop, metrics) or {})
        name = metric_name(loop)
        if name not in metrics:
            known = ", ".join(f"val/{n}" for n in sorted(metrics))
            raise ConfigError(f"training.monitor to be one of {known}", got=monitor)
        improved = loop.best.update(metrics[name], step)
        if improved and loop.store is not None:
            weights = loop.model_state()
            if loop.is_main:
                loop.store.save_weights("best_model.pt", weights, loop.config_record)
    loop.last_validation = (step, plain(metrics))
    loop.tracker.log(step, {f"{prefix}val/{key}": value for key, value in metrics.items()})
    loop.log.info("step %d, validation: %s %.5g%s", step, monitor, metrics[name], " (best)" if improved else "")
    return improved


def metric_name(loop: TrainingLoop) -> str:
    """Name of the monitored metric as the objective calls it."""
    return loop.training.monitor.removeprefix(loop.metric_prefix).removeprefix("val/")


def record_epoch(loop: TrainingLoop, complete: bool) -> None:
    """Put one record per epoch into the history; that of an incomplete last epoch is replaced when it is completed."""
    number = loop.epoch + 1
    record: dict[str, Any] = {
        "epoch": number,
        "train_loss": loop.epoch_meter.read().get("loss"),
        "val_loss": None,
        "lr": loop.learning_rates["optim/lr"],
        "step": loop.global_step,
    }
    loop.history = [r for r in loop.history if r["epoch"] != number]
    since = loop.history[-1]["step"] if loop.history else 0
    if loop.last_validation is not None and loop.last_validation[0] > since:
        metrics = loop.last_validation[1]
        names = ("loss", "ce", metric_name(loop))  # what is most like the training loss
        record["val_loss"] = next((metrics[name] for name in names if name in metrics), None)
        record |= {f"val/{key}": value for key, value in metrics.items()}
    loop.history.append(plain(record))
    if complete:
        for callback in loop.callbacks:
            callback.on_epoch_recorded(loop, record)
    if loop.store is not None and loop.is_main:
        write_json(loop.store.run_dir / "training_history.json", loop.history)
