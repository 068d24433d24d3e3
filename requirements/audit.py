"""Has any pin of the lock a known vulnerability? `make audit` asks pip-audit, and takes no silence for a clean bill.

pip-audit itself ends well when its service knew none of the packages, which is what a mirror without that service, or
a machine without the network, looks like.

Exit codes: 0 every pin was looked up and none is known to be vulnerable, 1 some are, 2 not every pin was looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CLEAN, VULNERABLE, NOT_ASKED = 0, 1, 2
_SHOWN = 3


def main(argv: Sequence[str]) -> int:
    """`argv`: the lock, then further options of pip-audit."""
    lock, *more = argv
    command = [str(Path(sys.executable).with_name("pip-audit")), "--requirement", lock, "--disable-pip"]
    form = ["--require-hashes", "--format", "json", "--progress-spinner", "off", *more]
    done = subprocess.run([*command, *form], capture_output=True, text=True, check=False)  # noqa: S603 - the Makefile's
    code, lines = judged(done.stdout, done.stderr)
    sys.stdout.write("\n".join(lines) + "\n")
    return code


def judged(report: str, complaint: str) -> tuple[int, list[str]]:
    """Exit code and what to say, from pip-audit's JSON and what it wrote to standard error."""
    try:
        pins: list[Mapping[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = next(reversed(complaint.strip().splitlines()), "it said nothing")
        return NOT_ASKED, [f"NOT AUDITED: pip-audit could not ask: {last}"]
    skipped = [f"{pin['name']}: {pin['skip_reason']}" for pin in pins if "skip_reason" in pin]
    found = [_told(pin, each) for pin in pins for each in pin.get("vulns", [])]
    asked = len(pins) - len(skipped)
    lines = [*found, f"{asked} of {len(pins)} pins were looked up, {len(found)} vulnerabilities found among them"]
    if skipped or not pins:
        lines += [f"NOT AUDITED: {len(skipped)} pins, for the service did not know them. The first:", *skipped[:_SHOWN]]
    if found:
        return VULNERABLE, lines
    return (NOT_ASKED if skipped or not pins else CLEAN), lines


def _told(pin: Mapping[str, Any], vulnerability: Mapping[str, Any]) -> str:
    mended = ", ".join(vulnerability.get("fix_versions", [])) or "no version yet"
    return f"VULNERABLE: {pin['name']} {pin['version']}: {vulnerability['id']}, mended in {mended}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
