"""Where everything lies in the object store: keys out of facts, and facts out of keys.

Numbers are zero-padded to twenty digits so that a listing in key order is a listing in number order.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

CURRENT = "CURRENT"
MANIFEST = "MANIFEST.json"
FIRST_VERSION = 1
"""The model that learned the stream from the beginning of the lineage; retrained ones are numbered from 2 on."""
VERSION_MAX = 999_999
_SEQ = re.compile(r"/(?:plan/([0-9]{20})\.json|checkpoint/([0-9]{20})/MANIFEST\.json)\Z")
_SAFE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_PLACE = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one lineage under one prefix, as one version of its model sees them.

    Plans and clicks are the lineage's; checkpoints, and the records of batches set aside, are the version's own.
    `prefix` may be empty or contain slashes; `lineage` and topics are letters, digits, `.`, `_`, `-`.
    """

    prefix: str
    lineage: str
    version: int = FIRST_VERSION

    def __post_init__(self) -> None:
        if not is_safe(self.lineage):
            raise ValueError(f"lineage {self.lineage!r} must be 1 to 100 letters, digits, '.', '_' or '-'")
        if not FIRST_VERSION <= self.version <= VERSION_MAX:
            raise ValueError(f"version {self.version} must be from {FIRST_VERSION} to {VERSION_MAX}")

    def of_version(self, version: int) -> Layout:
        """The same lineage as another version of its model sees it."""
        return Layout(self.prefix, self.lineage, version)

    @property
    def root(self) -> str:
        """Prefix of everything of this lineage."""
        return join(self.prefix, "lineage", self.lineage)

    @property
    def current(self) -> str:
        """The object that says which lineage serves; shared by all lineages of the prefix."""
        return current_key(self.prefix)

    @property
    def plans(self) -> str:
        """Prefix of all plans."""
        return f"{self.root}/plan/"

    @property
    def home(self) -> str:
        """Prefix of what is the version's own."""
        return self.root if self.version == FIRST_VERSION else f"{self.versions}{self.version:06d}"

    @property
    def versions(self) -> str:
        """Prefix of all versions but the first."""
        return f"{self.root}/version/"

    @property
    def serving(self) -> str:
        """The object that says which version serves; where there is none, it is the first."""
        return f"{self.root}/SERVING.json"

    def record(self, name: str) -> str:
        """A record of how the version came into being, as `request` or `result`."""
        return f"{self.versions}{self.version:06d}/{name}.json"

    @property
    def checkpoints(self) -> str:
        """Prefix of all checkpoints of the version."""
        return f"{self.home}/checkpoint/"

    @property
    def staged(self) -> str:
        """Prefix of all staged objects."""
        return f"{self.root}/stage/"

    @property
    def archived(self) -> str:
        """Prefix of the archive: what was staged, once its plans are collected."""
        return f"{self.root}/archive/"

    @property
    def asides(self) -> str:
        """Prefix of the records of batches that were set aside by the version."""
        return f"{self.home}/aside/"

    def aside(self, seq: int) -> str:
        """The record of the plan of `seq`, whose clicks are not learned."""
        return f"{self.asides}{seq:020d}.json"

    @property
    def probes(self) -> str:
        """Prefix of the start-up probe's objects, which it removes again."""
        return join(self.prefix, "probe") + "/"

    @property
    def resume(self) -> str:
        """Written by `headrace resume`: each new version of it tells the service to close its circuit breaker."""
        return join(self.prefix, "resume", f"{self.lineage}.json")

    def plan(self, seq: int) -> str:
        """The plan of `seq`: the commit point."""
        return f"{self.plans}{seq:020d}.json"

    def stage(self, topic: str, partition: int, start: int, end: int, suffix: str = "") -> str:
        """A partition range's clicks. `suffix` tells apart two contents that claim the same range."""
        return f"{self.staged}{topic}/{partition}/{start:020d}-{end:020d}{suffix}.parquet"

    def checkpoint(self, seq: int) -> str:
        """Prefix of one checkpoint's parts."""
        return f"{self.checkpoints}{seq:020d}/"

    def manifest(self, seq: int) -> str:
        """The object whose existence makes a checkpoint complete."""
        return f"{self.checkpoint(seq)}{MANIFEST}"

    def archive(self, first_seq: int, last_seq: int) -> str:
        """The clicks of plans [first_seq, last_seq] in one object."""
        return f"{self.archived}{first_seq:020d}-{last_seq:020d}.parquet"

    def archived_plans(self, first_seq: int, last_seq: int) -> str:
        """Those plans themselves, one a line."""
        return f"{self.archived}{first_seq:020d}-{last_seq:020d}.plans.jsonl"


def current_key(prefix: str) -> str:
    """Key of the object that names the serving lineage."""
    return join(prefix, CURRENT)


def join(*parts: str) -> str:
    """Join key parts with single slashes, leaving out empty ones."""
    return "/".join(part.strip("/") for part in parts if part.strip("/"))


def seq_of(key: str) -> int | None:
    """The sequence number in a plan's or a manifest's key; None for any other key."""
    match = _SEQ.search("/" + key)
    return int(match[1] or match[2]) if match else None


def place(location: str, layout: Layout) -> str:
    """Tells one lineage from another among all stores: many are called `main`. `location`: the bucket or directory.

    Hashed, as nobody who reads figures needs to know where the data lies.
    """
    return hashlib.sha256(f"{location}\n{layout.root}".encode()).hexdigest()[:12]


def is_place(text: str) -> bool:
    """What `place` makes."""
    return _PLACE.fullmatch(text) is not None


def is_safe(name: str) -> bool:
    """True for a name that can stand in a key as one segment."""
    return _SAFE.fullmatch(name) is not None and name not in {".", ".."}
