"""The chart's README: `python helm/readme.py` makes helm/headrace/README.md anew from values.yaml and README.head.md.

A value is described by the `# --` lines above it, as helm-docs has it. What stands below a described value belongs to
it, unless it is described itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parent / "headrace"
FILE: Final = CHART / "README.md"
_KEY: Final = re.compile(r"( *)([A-Za-z_][\w.]*):(.*)")
_MARK: Final = "# -- "


@dataclass(frozen=True, slots=True)
class Value:
    """One value. `path`: dotted; `text`: what the comment says."""

    path: str
    text: str
    default: Any


def described(text: str) -> Iterator[Value]:
    """Every value with a comment, in the order of the file."""
    values = yaml.safe_load(text)
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("#"):
            said = bare.removeprefix(_MARK) if bare.startswith(_MARK) else bare.removeprefix("#").strip()
            above = [said] if bare.startswith(_MARK) else [*above, said] if above else []
        elif (match := _KEY.fullmatch(line)) is None:
            above = []
        else:
            indent = len(match[1])
            path = [*(part for part in path if part[0] < indent), (indent, match[2])]
            if above:
                yield Value(".".join(name for _, name in path), " ".join(above), _at(values, path))
            above = []


def _at(values: Any, path: list[tuple[int, str]]) -> Any:
    for _, name in path:
        values = values[name]
    return values


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """Every path at which something other than a filled mapping stands."""
    if isinstance(values, dict) and values:
        for name, value in values.items():
            yield from leaves(value, f"{path}.{name}".removeprefix("."))
    else:
        yield path


def table(text: str) -> str:
    lines = ["| value | default | meaning |", "| --- | --- | --- |"]
    every = list(described(text))
    for value in every:
        # A parent whose children stand in the table by themselves shows no default of its own.
        parent = any(other.path.startswith(f"{value.path}.") for other in every)
        default = "" if parent else f"`{json.dumps(value.default, ensure_ascii=False)}`"
        lines.append(f"| `{value.path}` | {default} | {value.text} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def readme() -> str:
    """All of it."""
    head = (CHART / "README.head.md").read_text(encoding="utf-8")
    return f"{head.rstrip()}\n\n{table((CHART / 'values.yaml').read_text(encoding='utf-8'))}"


def main() -> None:
    """Write it."""
    FILE.write_text(readme(), encoding="utf-8")


if __name__ == "__main__":
    main()
