"""Places at which a test can have this process killed, one or more for each step of the cycle (docs/cycle.md).

    HEADRACE_TEST_FAULT=plan:3 HEADRACE_TEST_FAULTS_ALLOWED=1 headrace run      dies at its third plan

`reach` does nothing unless a fault was armed, which takes both variables: one alone is refused, so that no production
service dies of a variable that was left over. A fault is SIGKILL: no clean-up runs, as when memory or power is gone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stream.errors import ConfigError

FAULT: Final = "HEADRACE_TEST_FAULT"
ALLOWED: Final = "HEADRACE_TEST_FAULTS_ALLOWED"

SERVICE: Final = {
    "probe": 1,
    "restore": 2,
    "fence": 3,
    "assign": 4,
    "poll": 5,
    "decode": 6,
    "cut": 7,
    "stage": 8,
    "dead-letter": 9,
    "plan": 9,
    "submit": 10,
    "checkpoint": 11,
    "commit": 12,
    "collect": 14,
}
"""Points in the service's process, and the step that each is of; the process dies when the step's own act is done."""
LEARNER: Final = {"apply": 10, "freeze": 11, "manifest": 11, "publish": 13}
"""The same in the learner's: amid learning; before, and amid, writing a checkpoint; before the view is swapped."""


@dataclass(slots=True)
class _Armed:
    """`point`: "" for none. `left`: how often it is still reached until the process dies."""

    point: str = ""
    left: int = 0


_armed = _Armed()


def wanted(environment: Mapping[str, str]) -> str:
    """The fault that the environment asks for, "" for none. Raises ConfigError for half a request or an unknown one."""
    fault, allowed = environment.get(FAULT, ""), environment.get(ALLOWED, "")
    if not fault:
        return ""
    if allowed != "1":
        raise ConfigError(
            f"{FAULT}={fault} would have this process kill itself. It is for tests: unset it, or say {ALLOWED}=1 too"
        )
    _parse(fault)
    return fault


def arm(fault: str) -> None:
    """From now on this process dies when it reaches `fault` (`point` or `point:n`, the n-th time); "" disarms."""
    _armed.point, _armed.left = _parse(fault) if fault else ("", 0)


def reach(point: str) -> None:
    """The process is at `point`."""
    if point != _armed.point:
        return
    _armed.left -= 1
    if _armed.left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _parse(fault: str) -> tuple[str, int]:
    point, _, times = fault.partition(":")
    if point not in SERVICE | LEARNER or not (times or "1").isdecimal() or int(times or "1") < 1:
        known = ", ".join(sorted(SERVICE | LEARNER))
        raise ConfigError(f"{FAULT}={fault}: must be a point, or point:n for the n-th time; there are {known}")
    return point, int(times or "1")
