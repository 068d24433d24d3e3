"""`make audit`: silence of the service that it asks is never taken for a clean bill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from requirements import audit

CLEAN = {"name": "numpy", "version": "2.1", "vulns": []}
SKIPPED = {"name": "ray", "skip_reason": "Dependency not found on PyPI and could not be audited: ray (2.60.0)"}
BAD = {"name": "h11", "version": "0.1", "vulns": [{"id": "PYSEC-2025-1", "fix_versions": ["0.2"], "description": ""}]}


@pytest.mark.parametrize(
    ("pins", "code", "said"),
    [
        ([CLEAN], 0, "1 of 1 pins were looked up, 0 vulnerabilities found"),
        ([CLEAN, SKIPPED], 2, "NOT AUDITED: 1 pins"),
        ([SKIPPED, SKIPPED], 2, "0 of 2 pins were looked up"),
        ([], 2, "NOT AUDITED"),
        ([CLEAN, BAD], 1, "VULNERABLE: h11 0.1: PYSEC-2025-1, mended in 0.2"),
        ([SKIPPED, BAD], 1, "NOT AUDITED: 1 pins"),
    ],
)
def test_verdict(pins: list[dict[str, Any]], code: int, said: str) -> None:
    """Only a list in which every pin was looked up, and none found vulnerable, ends well."""
    got, lines = audit.judged(json.dumps({"dependencies": pins, "fixes": []}), "")

    assert got == code
    assert said in "\n".join(lines)


def test_no_answer() -> None:
    """Where pip-audit itself fails, its last word is told, and the audit fails."""
    assert audit.judged("", "Traceback ...\nConnectionError: no route to host") == (
        2,
        ["NOT AUDITED: pip-audit could not ask: ConnectionError: no route to host"],
    )


def test_program(tmp_path: Path) -> None:
    """The program runs the pip-audit beside its Python on the lock it is given, and ends with the verdict."""
    fake = tmp_path / "pip-audit"
    fake.write_text(
        f"#!/bin/sh\nprintf '%s ' \"$@\" >{tmp_path}/asked\necho '{json.dumps({'dependencies': [CLEAN]})}'\n"
    )
    fake.chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    argv = [str(tmp_path / "python"), audit.__file__, "some.lock", "--vulnerability-service=osv"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert (done.returncode, "1 of 1 pins" in done.stdout) == (0, True)
    asked = (tmp_path / "asked").read_text()
    assert "--requirement some.lock" in asked
    assert "--vulnerability-service=osv" in asked
