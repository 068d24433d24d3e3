"""What people ask of a lineage or of a running service: which checkpoints there are, and what a user would be shown."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import structlog

from model.learner import Learner
from stream import checkpoint, modelfiles
from stream.checkpoint import Manifest
from stream.errors import CheckpointInvalid, ConfigError, HeadraceError, StoreRefused, StoreUnavailable
from stream.host import STREAM_PART
from stream.names import load_names
from stream.naming import Layout, seq_of
from stream.ports import ObjectStore

__all__ = ["Answer", "checkpoints", "load_names", "newest", "recommend_from_service", "recommend_from_store", "show"]

log = structlog.get_logger()
SERVICE_SECONDS: Final = 10.0
"""The service itself gives up after 5."""
_ANSWER_BYTES_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """Items for a user, best first: product id and score in log-odds, comparable within one answer only.

    `known`: False for a user without history, whose items are then the most popular ones; None when a service was
    asked, which does not say. `model`: which model answered (`seq`, and `last_updated` or `age_seconds`). `source`: who
    answered.
    """

    user: str
    items: list[tuple[str, float]]
    known: bool | None
    model: Mapping[str, Any]
    source: str

    def to_dict(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Plain values for JSON, with the names that are known."""
        items = [{"product_id": item, "score": score, "name": names.get(item)} for item, score in self.items]
        return {"user": self.user, "known": self.known, "items": items, "model": self.model, "source": self.source}


@dataclass(slots=True)
class _Folder:
    """Sizes by key of what lies in one checkpoint's folder."""

    manifest_key: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)


def checkpoints(store: ObjectStore, layout: Layout) -> list[dict[str, Any]]:
    """One row per complete checkpoint, newest first, from its MANIFEST and the listing; no part is read.

    `loss`, `hr20`, `mrr20`: decayed means when it was taken, None before there were any. `occupancy`: how full the
    tables were, as in `LearnReport`. `size`: bytes. `state`: "ok", or what is damaged; `headrace verify` reads every
    byte.
    """
    folders: dict[str, _Folder] = {}
    for info in store.list(layout.checkpoints):
        folder = folders.setdefault(info.key.rpartition("/")[0], _Folder())
        folder.sizes[info.key] = info.size
        if (seq := seq_of(info.key)) is not None and info.key == layout.manifest(seq):
            folder.manifest_key = info.key
    return [_row(store, folder) for _, folder in sorted(folders.items(), reverse=True) if folder.manifest_key]


def newest(store: ObjectStore, layout: Layout) -> tuple[Manifest, Learner]:
    """The newest checkpoint that verifies, with its model. Reads all of it; no service and no Ray is needed.

    Raises ConfigError when there is no checkpoint yet, StoreRefused when none of them verifies.
    """
    found = list(checkpoint.complete(store, layout))
    if not found:
        raise ConfigError(
            f"lineage {layout.lineage} has no checkpoint yet: the first is written after some batches (see "
            "HEADRACE_STREAM_CHECKPOINT_BATCHES) and when the service stops. Or ask the running service with --url"
        )
    for manifest, learner in _loaded(store, [key for _, key in reversed(found)]):
        return manifest, learner
    raise StoreRefused(
        f"none of the {len(found)} checkpoints of lineage {layout.lineage} can be loaded: `headrace verify` says "
        "what is wrong with them"
    )


def recommend_from_store(store: ObjectStore, layout: Layout, user: str, top_n: int) -> Answer:
    """What the newest checkpoint that verifies would show `user`. Raises as `newest` does."""
    manifest, learner = newest(store, layout)
    row = learner.users.index.get(user)
    known = row is not None and bool(learner.users["clicks"][row, 0] >= 0)
    about = {"lineage": layout.lineage, "seq": manifest.seq, "last_updated": manifest.metadata.get("last_updated")}
    return Answer(user, learner.recommend(user, top_n), known, about, f"checkpoint {manifest.seq}")


def recommend_from_service(url: str, user: str, top_n: int, timeout_seconds: float = SERVICE_SECONDS) -> Answer:
    """What the service at `url` (as http://127.0.0.1:8080) shows `user` now, by its live model.

    Raises ConfigError when it refuses the question or is no Headrace, StoreUnavailable when it does not answer: then
    try again, or ask the store.
    """
    found = _ask(f"{_base(url)}/v1/recommend?{urlencode({'user': user, 'n': top_n})}", timeout_seconds)
    try:
        items = [(str(item["product_id"]), float(item["score"])) for item in found["items"]]
        return Answer(user, items, None, dict(found["model"]), url)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{url} answers, but not as Headrace does ({error!r}). Is it the right port?") from error


def show(answer: Answer, names: Mapping[str, str], *, as_json: bool) -> None:
    """Print an answer: a table for people, or one JSON object."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if as_json:
        print(json.dumps(answer.to_dict(names)))  # noqa: T201 - the answer is what standard output is for
        return
    table = Table()
    for heading in ("", "product_id", "name", "score") if names else ("", "product_id", "score"):
        table.add_column(heading, justify="right" if heading in {"", "score"} else "left")
    for place, (item, score) in enumerate(answer.items, 1):
        # As Text, because brackets in an id or a name are its own and no markup.
        named = [Text(names.get(item, ""))] if names else []
        table.add_row(str(place), Text(item), *named, f"{score:.3f}")
    console = Console()
    # As the table's own title it would be folded to the width of a narrow table.
    console.print(f"for {answer.user}, by {answer.source}", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    console.print(_caption(answer), markup=False)


def _caption(answer: Answer) -> str:
    if not answer.items:
        return "The model knows no items yet."
    if answer.known is False:
        return f"{answer.user} is not known to the model: these are the most popular items."
    when = answer.model.get("last_updated")
    age = answer.model.get("age_seconds")
    stood = f"as of {when}" if when else f"{age:.0f} s ago" if isinstance(age, int | float) else "at an unknown time"
    return f"The model had learned plan {answer.model.get('seq')}, {stood}."


def _row(store: ObjectStore, folder: _Folder) -> dict[str, Any]:
    key = str(folder.manifest_key)
    try:
        manifest = checkpoint.read_manifest(store, key)
    except CheckpointInvalid as error:
        return _columns(seq_of(key), {}, None, None, f"damaged: {error}")
    damages = [
        f"{part.key} {'has another size' if part.key in folder.sizes else 'is missing'}"
        for part in manifest.parts
        if folder.sizes.get(part.key) != part.size
    ]
    state = f"damaged: {damages[0]}" if damages else "ok"
    return _columns(manifest.seq, manifest.metadata, manifest.totals.trained, manifest.size, state)


def _columns(
    seq: int | None, metadata: Mapping[str, Any], events: int | None, size: int | None, state: str
) -> dict[str, Any]:
    quality = metadata.get("quality")
    quality = quality if isinstance(quality, dict) else {}
    return {
        "seq": seq,
        "when": metadata.get("last_updated"),
        "events": events,
        "users": metadata.get("n_users"),
        "items": metadata.get("n_items"),
        "loss": _rounded(metadata.get("final_loss")),
        "hr20": _rounded(quality.get("hit_ratio")),
        "mrr20": _rounded(quality.get("mrr")),
        "occupancy": metadata.get("occupancy"),
        "size": size,
        "state": state,
    }


def _rounded(value: Any) -> float | None:
    return round(value, 4) if isinstance(value, int | float) else None


def _loaded(store: ObjectStore, keys: list[str]) -> Iterator[tuple[Manifest, Learner]]:
    for key in keys:
        try:
            manifest = checkpoint.read_manifest(store, key)
            yield manifest, _load(store, manifest)
        except CheckpointInvalid as error:
            log.warning("checkpoint does not verify, trying the next older one", error=str(error))


def _load(store: ObjectStore, manifest: Manifest) -> Learner:
    """The model of a checkpoint, without its place in the stream."""
    what = f"checkpoint {manifest.seq}"
    reading = modelfiles.read(store, manifest, what)
    with modelfiles.loading(what):
        del reading.parts[STREAM_PART]
        return reading.learner()


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc or "@" in url:
        raise ConfigError(f"{url!r} is no address of a service: write it as http://HOST:PORT, without a login")
    return url.rstrip("/")


def _ask(url: str, timeout_seconds: float) -> Any:
    # Straight to the service: the proxies of the environment are for the world outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_seconds) as response:
            return json.loads(response.read(_ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        raise _refusal(url, error) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise StoreUnavailable(
            f"no answer from {url}: {reason}. Is `headrace run` up there? Without --url the newest checkpoint answers"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{url} answers, but not in JSON: is it the right port?") from error


def _refusal(url: str, error: urllib.error.HTTPError) -> HeadraceError:
    try:
        detail = json.loads(error.read(_ANSWER_BYTES_MAX))["detail"]
    except (OSError, ValueError, KeyError, TypeError):
        detail = error.reason
    said = f"{url} answers {error.code}: {detail}"
    return StoreUnavailable(f"{said}. Try again") if error.code >= 500 else ConfigError(said)
