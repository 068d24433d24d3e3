"""Settings of the property tests in this folder, and the command line as a user meets it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.services.installation import HEADRACE

# No deadline: on a busy machine an example may take any time, and the suite has a time-out of its own. Derandomized:
# what one run finds, every run finds.
settings.register_profile("headrace", deadline=None, derandomize=True, database=None)
settings.load_profile("headrace")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run `headrace ...` in an empty folder, with nothing set but what is given."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "MINIO_"))}

    def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [HEADRACE, *argv],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            cwd=tmp_path,
            env={**plain, **env},
        )

    return run
