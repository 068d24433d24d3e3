"""The first question to the store, which lineage serves, is asked with patience, and can be given up."""

from __future__ import annotations

import pytest

from stream import app
from stream.errors import DrainIncomplete, StoreRefused, StoreUnavailable
from stream.metrics import PrometheusMeter
from stream.settings.settings import Settings
from tests.fakes import MemoryStore


def test_waits_while_the_store_is_away() -> None:
    """The store comes up later than the service: the start goes on by itself."""
    store, meter, failures = MemoryStore(), PrometheusMeter(), iter(range(2))

    def away(call: str, key: str) -> None:
        if next(failures, None) is not None:
            raise StoreUnavailable("not yet")

    store.trouble = away

    assert app._layout(Settings.load(), store, meter, app._Signals()).lineage == "main"
    assert meter.value("headrace_store_retries_total") == 2


def test_a_signal_ends_the_waiting() -> None:
    """Asked to stop while the store is away, the start ends with the code for that, not with a crash."""
    store, signals = MemoryStore(), app._Signals()

    def away(call: str, key: str) -> None:
        signals.asked.set()
        raise StoreUnavailable("gone for good")

    store.trouble = away

    with pytest.raises(DrainIncomplete, match=r"stopped as asked.*gone for good"):
        app._layout(Settings.load(), store, PrometheusMeter(), signals)


def test_a_refusal_is_not_waited_for() -> None:
    """What will not pass by itself stops the start at once."""
    store = MemoryStore()

    def refuse(call: str, key: str) -> None:
        raise StoreRefused("no such bucket")

    store.trouble = refuse

    with pytest.raises(StoreRefused, match="no such bucket"):
        app._layout(Settings.load(), store, PrometheusMeter(), app._Signals())
