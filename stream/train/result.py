"""What a run of the batch job reports."""

from __future__ import annotations

from dataclasses import dataclass

from stream.train.state import Generation


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. `trained` False: there was nothing to do, and nothing was changed. `fallback`: incremental was
    asked for, but there was no model yet. `recovered`: an earlier run had trained, this one finished what it left.

    `losses`: of each epoch; `kept_epoch`: whose weights are in the model. Keys are "" where nothing was written.
    """

    mode: str
    trained: bool
    n_users: int
    n_items: int
    model_key: str
    new_users: int = 0
    new_items: int = 0
    epochs: int = 0
    kept_epoch: int = 0
    losses: tuple[float | None, ...] = ()
    final_loss: float | None = None
    events: int = 0
    rejected: int = 0
    duplicates: int = 0
    seconds: float = 0.0
    archive_key: str = ""
    rejects_keys: tuple[str, ...] = ()
    fallback: bool = False
    recovered: bool = False


def result_of(generation: Generation, model_key: str, *, recovered: bool = False) -> TrainResult:
    """The report of the run that committed `generation`."""
    facts, duty = generation.metadata, generation.duty
    return TrainResult(
        facts["training_mode"],
        trained=True,
        n_users=facts["n_users"],
        n_items=facts["n_items"],
        model_key=model_key,
        new_users=facts["new_users"],
        new_items=facts["new_items"],
        epochs=len(facts["epoch_losses"]),
        kept_epoch=facts["kept_epoch"],
        losses=tuple(facts["epoch_losses"]),
        final_loss=facts["final_loss"],
        events=facts["n_events"],
        rejected=facts["rejected"],
        duplicates=facts["duplicates"],
        seconds=facts["seconds"],
        archive_key=duty.archive_key,
        rejects_keys=duty.rejects_keys,
        fallback=duty.fallback,
        recovered=recovered,
    )


def nothing_done(newest: Generation | None, model_key: str) -> TrainResult:
    """The report of a run that found no new data; the model stays as it is."""
    facts = newest.metadata if newest is not None else {}
    users, items = facts.get("n_users", 0), facts.get("n_items", 0)
    return TrainResult("incremental", False, users, items, model_key, final_loss=facts.get("final_loss"))


def summary(result: TrainResult) -> str:
    """One line for a person."""
    if not result.trained:
        return f"nothing to do: the model keeps {result.n_users:,} users and {result.n_items:,} items"
    loss = "none" if result.final_loss is None else f"{result.final_loss:.4f}"
    users, items = f"{result.n_users:,} ({result.new_users:,} new)", f"{result.n_items:,} ({result.new_items:,} new)"
    return (
        f"{result.mode} training: {result.events:,} clicks, {result.epochs} epochs (kept: {result.kept_epoch}), "
        f"loss {loss}; {users} users, {items} items; {result.rejected:,} rejected, "
        f"{result.duplicates:,} duplicates; {result.seconds:.1f} s; written to {result.model_key}"
    )
