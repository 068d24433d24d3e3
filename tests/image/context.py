"""What is sent to the builder: a folder less what its .dockerignore keeps back."""

from __future__ import annotations

import fnmatch
from pathlib import Path


class Context:
    """A folder. `is_sent` knows of .dockerignore what ours uses: `*`, names, `!name`, and `**/` before a name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lines = [line.strip() for line in (folder / ".dockerignore").read_text().splitlines()]
        self._patterns = [(line.startswith("!"), line.lstrip("!")) for line in lines if line and line[0] != "#"]

    def is_sent(self, path: str) -> bool:
        """Whether it passes: the last pattern about it, or about a folder above it, decides."""
        parts = Path(path).parts
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        about = [keep for keep, pattern in self._patterns if any(_matches(name, pattern) for name in above)]
        return about[-1] if about else True

    def unsent(self, folder: str, names: list[str]) -> set[str]:
        """For shutil.copytree."""
        within = Path(folder).relative_to(self.folder)
        return {name for name in names if not self.is_sent(str(within / name))}


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(Path(path).name, pattern[3:])
    return "/" not in path and fnmatch.fnmatchcase(path, pattern)
