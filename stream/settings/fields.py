"""What options are made of: how one is declared, read from text, and checked."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    model_validator,
)
from pydantic.fields import FieldInfo

MASK: Final = "********"
MIB: Final = 1 << 20
MEMORY_MIN: Final = 512 * MIB
"""The process itself takes half of it, whatever its tables hold."""
_SIZE: Final = TypeAdapter(ByteSize)
BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HOST: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


def option(description: str, default: Any = ..., *, unit: str = "", allowed: str = "", **more: Any) -> Any:
    """Declare an option. `allowed` says in words what a validator checks; numeric bounds say it themselves.

    `more`: bounds for pydantic, `env` (a name other than HEADRACE_GROUP_FIELD), `aliases` (further names), `initial`
    (with `default_factory`: the default in words).
    """
    keys = ("env", "aliases", "initial")
    extra = {"unit": unit, "allowed": allowed, **{key: more.pop(key) for key in keys if key in more}}
    if "default_factory" not in more:
        more["default"] = default
    return Field(description=description, json_schema_extra=extra, **more)


def matching(pattern: str, *, otherwise: str) -> AfterValidator:
    """Refuse text that `pattern` does not match as a whole."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(otherwise)
        return value

    return AfterValidator(check)


def read_size(value: Any) -> Any:
    """`8MiB` to 8388608; anything but text goes through."""
    return int(_SIZE.validate_python(value)) if isinstance(value, str) else value


def read_priorities(value: Any) -> Any:
    """`purchase=3, view=1` to a mapping; anything but text goes through."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    return {name.strip(): number.strip() for name, _, number in pairs}


def lower(value: Any) -> Any:
    """Text in lower case; anything else goes through."""
    return value.lower() if isinstance(value, str) else value


def check_url(value: str) -> str:
    """A full http(s) URL; `minio:9000` means http://minio:9000."""
    url = value if "://" in value or not value else f"http://{value}"
    parts = urlsplit(url)
    named = _HOST.fullmatch(parts.netloc.rpartition(":")[0] if re.search(r":\d*\Z", parts.netloc) else parts.netloc)
    if url and (parts.scheme not in {"http", "https"} or not named or parts.query or re.search(r"[\s@]", url)):
        raise ValueError("not a plain http(s) URL")
    return url.rstrip("/")


def check_brokers(value: str) -> str:
    """`host:port,host:port`, each with a port."""
    brokers = [broker.strip() for broker in value.split(",")]
    if not all(_is_host_port(broker) for broker in brokers):
        raise ValueError("not host:port")
    return ",".join(brokers)


def check_ray_address(value: str) -> str:
    if value and value not in {"auto", "local"} and not _is_host_port(value.removeprefix("ray://")):
        raise ValueError("not an address")
    return value


def check_location(value: str) -> str:
    """`s3`, or the path of a directory; a file:// URL becomes a path."""
    if not value.startswith("file://"):
        return value
    parts = urlsplit(value)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise ValueError("a file URL has three slashes")
    return parts.path


def check_backup_place(value: str) -> str:
    """`s3://BUCKET`, or the path of a directory; a file:// URL becomes a path."""
    bucket = value.removeprefix("s3://")
    if bucket == value:
        return check_location(value)
    if not BUCKET.fullmatch(bucket):
        raise ValueError("not a bucket name")
    return value


def check_file(value: str) -> str:
    """A path to a file that can be read now, or nothing."""
    try:
        found = not value or Path(value).is_file()
    except OSError as error:  # a name that is too long, say
        raise ValueError(f"cannot be a file's path: {error.strerror}") from error
    if not found:
        raise ValueError("no such file")
    return value


def _is_host_port(text: str) -> bool:
    match = _HOST_PORT.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 65536


Bytes = Annotated[int, BeforeValidator(read_size)]
File = Annotated[str, AfterValidator(check_file)]
Key = Annotated[str, matching(r"[^/\s][^\s]{0,899}", otherwise="not a key")]
Name = Annotated[str, matching(r"[A-Za-z0-9._-]{1,100}", otherwise="not a name")]
Topic = Annotated[str, matching(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", otherwise="not a topic name")]

KEY: Final = "an object's key without spaces, not starting with '/', at most 900 characters"
NAME: Final = "1 to 100 letters, digits, '.', '_' or '-'"
TOPIC: Final = "1 to 249 letters, digits, '.', '_' or '-'"
FILE: Final = "empty, or the path of a file that exists"


class Group(BaseModel):
    """A frozen group of options. Input never shows in errors: it may be a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    def problems(self) -> Iterable[str]:
        """What is wrong with options that are right one by one."""
        return ()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if found := list(self.problems()):
            raise ValueError("\n".join(found))
        return self


def check_memory(value: int) -> int:
    if value and not MEMORY_MIN <= value <= 1 << 40:
        raise ValueError("not a budget")
    return value


def no_zero(values: dict[str, float]) -> dict[str, float]:
    if not all(name and len(name) <= 64 and 0 < abs(number) <= 100 for name, number in values.items()):
        raise ValueError("not priorities")
    return values


Priorities = Annotated[dict[str, float], BeforeValidator(read_priorities), AfterValidator(no_zero)]


@dataclass(frozen=True, slots=True)
class Option:
    """One option as declared. `names`: environment variables that set it, the first one wins."""

    group: str
    field: str
    info: FieldInfo
    names: tuple[str, ...]

    @property
    def path(self) -> str:
        """`group.field`, the name under which arguments give it."""
        return f"{self.group}.{self.field}"

    @property
    def secret(self) -> bool:
        return self.info.annotation is SecretStr

    @property
    def extra(self) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", self.info.json_schema_extra)

    @property
    def allowed(self) -> str:
        """What may stand there, in words, with the unit."""
        return self.extra["allowed"] or _allowed(self.info, self.extra["unit"])

    def show(self, value: object) -> str:
        """The value as text, a set secret masked."""
        if self.secret:
            return MASK if plain(value) else ""
        if isinstance(value, bool):
            return str(value).lower()
        if self.extra["unit"] == "bytes" and isinstance(value, int):
            return _size(value)
        if isinstance(value, Mapping):
            return ",".join(f"{name}={number:g}" for name, number in value.items())
        return f"{value:g}" if isinstance(value, float) else str(value)

    @property
    def default(self) -> str:
        """The default as text."""
        return self.extra["initial"] if self.info.default_factory else self.show(self.info.default)


def plain(value: object) -> str:
    """A secret's text, for masking; anything else as text."""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _size(number: float) -> str:
    """Bytes in the largest unit that divides them."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number and number % factor == 0:
            return f"{number // factor:.0f}{unit}"
    return f"{number:.0f}"


def _allowed(info: FieldInfo, unit: str) -> str:
    """What the annotation and the bounds let through, in words."""
    if info.annotation is bool:
        return "true or false"
    if typing.get_origin(info.annotation) is Literal:
        return " or ".join(str(value) or "empty" for value in typing.get_args(info.annotation))
    kind = {int: "a whole number", float: "a number"}.get(cast("type", info.annotation), "text")
    return ", ".join([kind if unit != "bytes" else "a size", *_bounds(info, unit)])


def _bounds(info: FieldInfo, unit: str) -> Iterable[str]:
    """The bounds in words, with the unit after the last number."""
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below", "multiple_of": "a multiple of"}
    words |= {"min_length": "from", "max_length": "to"}
    texts = [
        f"{word} {_size(limit) if unit == 'bytes' else limit}"
        for bound in info.metadata
        for name, word in words.items()
        if (limit := getattr(bound, name, None)) is not None
    ]
    if not texts:
        return []
    unit = "characters" if info.annotation is str else unit.removesuffix("bytes")
    return [f"{' '.join(texts[:2])} {unit}".rstrip(), *texts[2:]]
