"""The promises in thousands of simulated worlds; and the proof that the judge of them sees what he must see."""

from __future__ import annotations

import os
import re

import pytest

from tests.recovery.simulated.sabotage import SABOTAGES, Sabotage
from tests.recovery.simulation import find, live_through, run

SEEDS = int(os.environ.get("SIMULATED_SEEDS", "200"))
"""`make simulate` runs 2,000 and more, as CI does after the tests; these are for a developer's run of everything."""


@pytest.mark.timeout(900)
def test_every_world_ends_well() -> None:
    """Whatever dies, sleeps, gets lost or comes late: every offset once, every checkpoint what the plans give."""
    assert [(found.seed, found.wrong) for found in run(range(SEEDS), workers=2) if found.wrong] == []


def test_a_seed_is_a_world() -> None:
    """The same seed gives the same world to the last line of its trace, on both models."""
    for seed in (40, 23):
        first, second = (live_through(seed, tracing=True)[0].world.trace for _ in range(2))
        assert first
        assert _without_probes(first) == _without_probes(second)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sabotage", [each for each in SABOTAGES if each.seeds], ids=lambda each: each.name[:40])
def test_a_missing_protection_is_found(sabotage: Sabotage) -> None:
    """With one protection off, corruption is found within the stated number of worlds."""
    assert find(sabotage) is not None


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sabotage", [each for each in SABOTAGES if not each.seeds], ids=lambda each: each.name[:40])
def test_what_only_decides_who_wins(sabotage: Sabotage) -> None:
    """Without these nothing is corrupted: they stop a process sooner, or keep one going."""
    found = find(sabotage)
    assert found is None, found


def _without_probes(trace: list[str] | None) -> list[str]:
    """The start-up probe names its objects by chance, for real."""
    return [re.sub(r"probe/[0-9a-f]{32}", "probe", line) for line in trace or []]
