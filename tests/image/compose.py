"""Reads docker-compose.yml as Compose does: variables filled in from an environment, anchors and merges resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
KEYS = {"MINIO_ACCESS_KEY": "headrace", "MINIO_SECRET_KEY": "not-a-secret-outside-of-the-tests"}
"""What has no default."""
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:?[-?])([^}]*))?\})")


class Missing(Exception):
    """A variable that must be set is not; the message is what Compose prints."""


def load(environment: Mapping[str, str] = KEYS) -> dict[str, Any]:
    """The whole file, as Compose would see it with this environment. Raises Missing."""
    found: dict[str, Any] = filled(yaml.safe_load(FILE.read_text()), environment)
    return found


def filled(value: Any, environment: Mapping[str, str]) -> Any:
    """`value` with every variable in it filled in."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _value(match, environment), value)
    if isinstance(value, list):
        return [filled(each, environment) for each in value]
    if isinstance(value, dict):
        return {key: filled(each, environment) for key, each in value.items()}
    return value


def asked() -> dict[str, set[str]]:
    """Every variable of the file with the defaults that it is given: more than one is a contradiction."""
    found: dict[str, set[str]] = {}
    for escaped, name, kind, text in _VARIABLE.findall(FILE.read_text()):
        if not escaped:
            found.setdefault(name, set()).add(text if kind.endswith("-") else "")
    return found


def services(environment: Mapping[str, str] = KEYS) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(environment)["services"]
    return found


def content(config: str, environment: Mapping[str, str] = KEYS) -> str:
    """The text of a `configs:` entry, as the container finds it."""
    found: str = load(environment)["configs"][config]["content"]
    return found


def _value(match: re.Match[str], environment: Mapping[str, str]) -> str:
    escaped, name, kind, text = match.groups()
    if escaped:
        return "$"
    value = environment.get(name)
    if value or (value is not None and not (kind or "").startswith(":")):
        return value
    if (kind or "").endswith("?"):
        raise Missing(f"required variable {name} is missing a value: {text}")
    return text or ""
