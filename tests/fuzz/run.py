"""`make fuzz SECONDS=60`: each target in turn under atheris, which follows coverage to where few bytes lead.

Every target has a process and a corpus of its own (`out/fuzz/NAME`), so that a night's findings begin where the last
one's ended. A failing input is printed, kept, and ends the run with its exit code.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "out" / "fuzz"
BYTES_MAX = 4096
MEMORY_MB_MAX = 2048
"""Of one process: what grows past it has found a bomb."""


def main(seconds: int, names: list[str]) -> int:
    """Fuzz for `seconds` in all; the exit code of the first target that fails, else 0."""
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write(
            "fuzzing is skipped: atheris is not installed here. It has wheels for some Pythons on Linux only: "
            "pip install '.[fuzz]' in .venv, then run it again\n"
        )
        return 0
    from tests.fuzz.targets import TARGETS, seeds

    chosen = names or list(TARGETS)
    for name in chosen:
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(seeds(name)):
            (folder / f"seed-{number}").write_bytes(data)
        limits = [f"-max_total_time={max(1, seconds // len(chosen))}", f"-max_len={BYTES_MAX}"]
        limits += [
            f"-rss_limit_mb={MEMORY_MB_MAX}",
            "-timeout=20",
            f"-artifact_prefix={CORPUS}/",
            "-print_final_stats=1",
        ]
        command = [sys.executable, "-m", "tests.fuzz.one", name, str(folder), *limits]
        sys.stderr.write(f"fuzzing {name}\n")
        done = subprocess.run(command, cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
