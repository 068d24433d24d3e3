"""What one run of the batch job reads: the object of all clicks, the object of new ones, or both."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO

from stream import wiring
from stream.errors import ConfigError
from stream.ports import ObjectStore
from stream.settings.settings import Settings
from stream.train.clickfile import Consumed, Reader, Reading, find
from stream.train.clicks import Clicks, without_contained
from stream.train.finish import put_once
from stream.train.progress import Progress

ARCHIVE_KEY = "data/clickstream_archive_{stamp}.json"
REJECTS_KEY = "data/rejects/{name}.{sha256}.jsonl"


@dataclass(slots=True)
class Inputs:
    """Clicks to train, and where they came from.

    `now`: seconds since the epoch, for the archive's name. `files`: closes temporary files. `source`: of the object of
    all clicks; `consumed`: of the object of new ones, before and then including this run. `archive_key`: for its bytes,
    "" when none were read. `window`: event ids of the dedupe window, oldest first.
    """

    settings: Settings
    store: ObjectStore
    progress: Progress
    now: float
    files: ExitStack
    readings: list[Reading] = field(default_factory=list)
    parts: list[Clicks] = field(default_factory=list)
    source: Consumed | None = None
    consumed: Consumed | None = None
    archive_key: str = ""
    duplicates: int = 0
    window: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def rejected(self) -> int:
        return sum(reading.rejects.count for reading in self.readings)

    @property
    def rejects_keys(self) -> tuple[str, ...]:
        return tuple(_rejects_key(reading.consumed) for reading in self.readings if reading.rejects.count)

    def read_all(self, *, may_be_missing: bool) -> None:
        """Read the object of all clicks. Raises `ConfigError` when it is missing or empty and there are no others."""
        key = self.settings.train.clickstream_key
        reading = self._reader(keeps_ids=may_be_missing).read(key)
        if reading is not None:
            self.source = reading.consumed
            self._take(reading, reading.clicks)
        elif not may_be_missing or find(self.store, self.settings.train.new_clickstream_key) is None:
            state = "does not exist" if find(self.store, key) is None else "is empty"
            raise ConfigError(f"{key} {state}: put clicks there, one JSON object per line, or set CLICKSTREAM_S3_KEY")

    def read_new(self, new_bytes: IO[bytes]) -> bool:
        """Read what nobody has trained of the object of new clicks, a copy into `new_bytes`; False when nothing is new.

        What the object of all clicks holds as well, if that was read, is left out.
        """
        known = self.parts[0] if self.parts else None
        reader = self._reader(keeps_ids=known is not None)
        reading = reader.read(self.settings.train.new_clickstream_key, self.consumed, new_bytes)
        if reading is None or not reading.lines:
            return False
        self.consumed = reading.consumed
        self.archive_key = self._free_archive_key()
        self._take(reading, reading.clicks if known is None else without_contained(reading.clicks, known))
        return True

    def _free_archive_key(self) -> str:
        """The archive's name by the clock; a second later for each that is there already."""
        for seconds in itertools.count():
            moment = datetime.fromtimestamp(self.now + seconds, UTC)
            key = ARCHIVE_KEY.format(stamp=moment.strftime("%Y%m%d_%H%M%S"))
            if find(self.store, key) is None:
                return key
        raise AssertionError("seconds never end")

    def check(self, *, begins: bool) -> None:
        """Raises `ConfigError` when too many lines are bad, or there is none and a model `begins` with them."""
        options = self.settings.train
        for reading in self.readings:
            _check_share(reading, options.max_reject_share)
        if begins and not len(self):
            keys = options.clickstream_key + (f" or {options.new_clickstream_key}" if options.incremental else "")
            raise ConfigError(f"there is not one click in {keys}: one JSON object per line is expected")

    def keep_rejects(self) -> None:
        """Write the bad lines to the store, and say where they are."""
        for reading in self.readings:
            if reading.rejects.count:
                key = _rejects_key(reading.consumed)
                put_once(self.store, key, reading.rejects.file)
                share = f"{reading.rejects.count:,} of {reading.lines:,} lines of {reading.consumed.key}"
                self.progress.say(f"{share} are bad, all in {key}:\n  " + "\n  ".join(reading.rejects.first))

    def _reader(self, *, keeps_ids: bool) -> Reader:
        rules, window = wiring.decode_rules(self.settings), self.settings.stream.dedupe_window
        return Reader(self.store, rules, self.files, window, self.window, keeps_ids, self.progress.reading)

    def _take(self, reading: Reading, clicks: Clicks) -> None:
        limit = self.settings.stream.dedupe_window
        self.readings.append(reading)
        self.parts.append(clicks)
        self.duplicates += reading.duplicates + len(reading.clicks) - len(clicks)
        self.window = [*self.window, *reading.event_ids][-limit:] if limit else []


def _check_share(reading: Reading, most: float) -> None:
    bad, lines = reading.rejects.count, reading.lines
    if bad > most * lines:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in reading.rejects.reasons.most_common(3))
        raise ConfigError(
            f"{reading.consumed.key}: {bad:,} of {lines:,} lines are bad ({reasons}), more than the share of {most:g} "
            "that HEADRACE_TRAIN_MAX_REJECT_SHARE allows. Nothing was trained or changed. The first ones:\n  "
            + "\n  ".join(reading.rejects.first)
        )


def _rejects_key(consumed: Consumed) -> str:
    """Named by the bytes that were read, so that a rerun finds it written."""
    name = consumed.key.rpartition("/")[2].removesuffix(".json")
    return REJECTS_KEY.format(name=name, sha256=consumed.sha256[:16])
