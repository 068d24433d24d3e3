"""Reads a Dockerfile: stages, instructions with their flags, here-documents, and the variables that hold at each."""

from __future__ import annotations

import json
import platform
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What an image has that says nothing else."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""A machine's name for itself, and Docker's."""
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})")
_HEREDOC = re.compile(r"<<-?(['\"]?)(\w+)\1")


@dataclass(frozen=True)
class Step:
    """One instruction. `flags`: `--name=value` before its text; `documents`: what stands in its here-documents."""

    line: int
    word: str
    flags: tuple[tuple[str, str], ...]
    text: str
    documents: tuple[str, ...] = ()

    def flag(self, name: str) -> list[str]:
        return [value for key, value in self.flags if key == name]

    @property
    def words(self) -> list[str]:
        """The text as a list: JSON where it is written so, else as a shell would split it."""
        return [str(word) for word in json.loads(self.text)] if self.text.startswith("[") else shlex.split(self.text)


@dataclass
class Stage:
    """`base`: an image or another stage, variables filled in. `name`: its number where it has none."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)

    def all(self, *words: str) -> list[Step]:
        return [step for step in self.steps if step.word in words]


class Dockerfile:
    """A whole file; `arguments` (`--build-arg`, the TARGETARCH of `--platform`) win over the defaults of its ARGs."""

    def __init__(self, text: str, arguments: Mapping[str, str] | None = None) -> None:
        self.arguments = dict(arguments or {})
        here = ARCHITECTURES.get(platform.machine(), platform.machine())
        self.outside: dict[str, str] = {"TARGETARCH": self.arguments.get("TARGETARCH", here)}
        self.stages: list[Stage] = []
        for step in _steps(text):
            if step.word == "FROM":
                words = shlex.split(filled(step.text, self.outside))
                self.stages.append(Stage(words[2] if len(words) == 3 else str(len(self.stages)), words[0]))
            elif self.stages:
                self.stages[-1].steps.append(step)
            else:
                self.outside |= self._given(step, {})

    @classmethod
    def ours(cls) -> Dockerfile:
        return cls((ROOT / "Dockerfile").read_text())

    def stage(self, name: str) -> Stage | None:
        """None for an image from elsewhere."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def lineage(self, name: str) -> list[Stage]:
        """A stage with all that it stands on, itself first."""
        stage = self.stage(name)
        return [stage, *self.lineage(stage.base)] if stage is not None else []

    def last(self, name: str, word: str) -> Step:
        """The instruction of this kind that holds at the end of a stage. Raises StopIteration."""
        return next(step for stage in self.lineage(name) for step in reversed(stage.steps) if step.word == word)

    def environment(self, name: str, before: Step | None = None) -> dict[str, str]:
        """What ENV has set at the end of a stage, or before one of its steps."""
        return self._variables(name, before)[0]

    def known(self, name: str, before: Step | None = None) -> dict[str, str]:
        """The same, and what ARG has set in this stage."""
        return self._variables(name, before)[1]

    def _variables(self, name: str, before: Step | None) -> tuple[dict[str, str], dict[str, str]]:
        stage = self.stage(name)
        if stage is None:
            return {"PATH": PATH}, {"PATH": PATH}
        kept = self.environment(stage.base)
        known = dict(kept)
        for step in stage.steps:
            if step is before:
                break
            if step.word == "ENV":
                given = _pairs(filled(step.text, known))
                kept, known = kept | given, known | given
            elif step.word == "ARG":
                known |= self._given(step, known)
        return kept, known

    def _given(self, step: Step, known: Mapping[str, str]) -> dict[str, str]:
        name, _, default = step.text.partition("=")
        return {name: self.arguments.get(name, filled(default, known) or self.outside.get(name, ""))}


def filled(text: str, variables: Mapping[str, str]) -> str:
    """`text` with $NAME, ${NAME} and ${NAME:-default} filled in, the default too; what is unknown is empty."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match[1] or match[2], "") or filled(match[3] or "", variables)

    return _VARIABLE.sub(value, text)


def labels(step: Step, known: Mapping[str, str]) -> dict[str, str]:
    return _pairs(filled(step.text, known))


def _pairs(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in shlex.split(text))}


def _steps(text: str) -> Iterator[Step]:
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        whole = _joined(line, lines)
        documents = tuple(_document(lines, end) for _, end in _HEREDOC.findall(whole))
        word, _, rest = whole.partition(" ")
        flags = []
        while match := re.match(r"--([\w-]+)=(\S+)\s+", rest):
            flags.append((match[1], match[2]))
            rest = rest[match.end() :]
        yield Step(number, word.upper(), tuple(flags), rest.strip(), documents)


def _joined(line: str, lines: Iterator[tuple[int, str]]) -> str:
    """A line with those that it is continued on; comments between them are left out."""
    whole = line.strip()
    while whole.endswith("\\"):
        _, more = next(lines)
        if not more.lstrip().startswith("#"):
            whole = f"{whole[:-1].rstrip()} {more.strip()}"
    return whole


def _document(lines: Iterator[tuple[int, str]], end: str) -> str:
    found: list[str] = []
    for _, line in lines:
        if line == end:
            return "\n".join([*found, ""])
        found.append(line)
    raise ValueError(f"a here-document without its {end}")
