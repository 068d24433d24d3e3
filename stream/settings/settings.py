"""The settings: one frozen object, read once. The only reader of the environment.

    settings = Settings.load({"kafka.topic": "clicks"})     arguments win over the environment, None means not given

HEADRACE_* names win over the names of the batch contract; an empty variable counts as not set. A HEADRACE_* name that
is no setting is refused, so that a slip of the pen cannot go unnoticed.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from stream import faultpoints
from stream.errors import ConfigError
from stream.settings.fields import MASK, Group, Option, plain
from stream.settings.options import (
    AdminOptions,
    BackupOptions,
    HttpOptions,
    KafkaOptions,
    LogOptions,
    ModelOptions,
    RayOptions,
    RetrainOptions,
    StoreOptions,
    StreamOptions,
    TrainOptions,
)

PREFIX: Final = "HEADRACE_"
# Variables that others own: our tests' and benchmarks', and those that Kubernetes sets in every pod beside a Service
# whose name begins with "headrace" (NAME=VALUE, for only the value tells HEADRACE_PORT from a slip of the pen).
_SCHEME: Final = re.compile(r"['\"]?(\w+://)?")
# What Ray's and AWS's own parts read. Headrace does not, and must not print it either.
FOREIGN_SECRETS: Final = ("RAY_AUTH_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://")
_FOREIGN: Final = re.compile(
    r"HEADRACE_(TEST|BENCH)_\w+=.*"
    r"|HEADRACE_(\w+_)?SERVICE_(HOST|PORT(_\w+)?)=.*"
    r"|HEADRACE_(\w+_)?PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=.*"
    r"|HEADRACE_(\w+_)?PORT=(tcp|udp|sctp)://.*",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting in force. `source`: an environment variable's name, `argument` or `default`."""

    name: str
    value: str
    source: str
    description: str


class _Environment(PydanticBaseSettingsSource):
    """The process's environment, by the names that the options declare."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Nothing by single field: `__call__` answers whole groups."""
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {"sources": {}}
        for option in OPTIONS:
            name = next((name for name in option.names if os.environ.get(name)), None)
            if name is not None:
                found.setdefault(option.group, {})[option.field] = os.environ[name]
                found["sources"][option.path] = name
        return found


class Settings(BaseSettings):
    """All settings, by group. Make it with `Settings.load`, whose errors are for people."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    store: StoreOptions = Field(default_factory=StoreOptions)
    kafka: KafkaOptions = Field(default_factory=KafkaOptions)
    stream: StreamOptions = Field(default_factory=StreamOptions)
    model: ModelOptions = Field(default_factory=ModelOptions)
    train: TrainOptions = Field(default_factory=TrainOptions)
    ray: RayOptions = Field(default_factory=RayOptions)
    http: HttpOptions = Field(default_factory=HttpOptions)
    admin: AdminOptions = Field(default_factory=AdminOptions)
    retrain: RetrainOptions = Field(default_factory=RetrainOptions)
    backup: BackupOptions = Field(default_factory=BackupOptions)
    log: LogOptions = Field(default_factory=LogOptions)
    sources: dict[str, str] = Field(default_factory=dict, repr=False)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment; no files."""
        return init_settings, _Environment(settings_cls)

    @classmethod
    def load(cls, arguments: Mapping[str, object] | None = None) -> Self:
        """Read the environment below `arguments`, which are named `group.field`.

        Raises `ConfigError` that lists every problem at once: the variable, its value (secrets masked), what may stand
        there.
        """
        given = {path: value for path, value in (arguments or {}).items() if value is not None}
        nested: dict[str, Any] = {"sources": dict.fromkeys(given, "argument")}
        for path, value in given.items():
            group, _, field = path.partition(".")
            nested.setdefault(group, {})[field] = value
        problems = list(_unknown_variables())
        try:
            settings = cls(**nested)
        except ValidationError as error:
            problems += _problems(error, given)
        if problems:
            raise ConfigError("\n".join(problems)) from None
        return settings

    def effective(self) -> Iterator[Effective]:
        """Every setting in force, in the order of the documentation."""
        for option in OPTIONS:
            value = getattr(getattr(self, option.group), option.field)
            source = self.sources.get(option.path, "default")
            yield Effective(option.names[0], option.show(value), source, option.info.description or "")

    def secrets(self) -> tuple[str, ...]:
        """The secrets that are set, those that others read from the environment included, for the log to mask."""
        values = [plain(getattr(getattr(self, option.group), option.field)) for option in OPTIONS if option.secret]
        return tuple(text for text in [*values, *map(os.environ.get, FOREIGN_SECRETS)] if text)


def wanted_fault() -> str:
    """Where a test wants the process to die: "" for nowhere. No setting, so that it is listed nowhere. See there."""
    return faultpoints.wanted(os.environ)


def _declared() -> Iterator[Option]:
    for group, field in Settings.model_fields.items():
        options = field.annotation
        if not (isinstance(options, type) and issubclass(options, Group)):
            continue
        for name, info in options.model_fields.items():
            extra = cast("Mapping[str, Any]", info.json_schema_extra)
            own = extra.get("env", f"{PREFIX}{group}_{name}".upper())
            yield Option(group, name, info, (own, *extra.get("aliases", ())))


OPTIONS: Final = tuple(_declared())
_BY_PATH: Final = {option.path: option for option in OPTIONS}


def _unknown_variables() -> Iterator[str]:
    """HEADRACE_* names that set nothing. Their values are not shown: one may be a misspelt secret."""
    known = [name for option in OPTIONS for name in option.names]
    for name, value in os.environ.items():
        if name.startswith(PREFIX) and name not in known and not _FOREIGN.fullmatch(f"{name}={value}"):
            nearest = difflib.get_close_matches(name, known, 1, 0.0)[0]
            yield f"{name}: no such setting; did you mean {nearest}? (docs/settings.md lists them all)"


def _problems(error: ValidationError, given: Mapping[str, object]) -> Iterator[str]:
    """Each error as a line for the operator."""
    for detail in error.errors(include_url=False):
        path = ".".join(str(part) for part in detail["loc"][:2])
        if path in _BY_PATH and detail["type"] != "default_factory_not_called":
            yield _problem(_BY_PATH[path], detail, given)
        elif detail["type"] == "value_error":
            yield str(detail["ctx"]["error"])
        elif path not in _BY_PATH:
            yield f"argument {path}: no such setting; did you mean {_nearest(path)}?"


def _nearest(path: str) -> str:
    return difflib.get_close_matches(path, list(_BY_PATH), 1, 0.0)[0]


def _problem(option: Option, detail: ErrorDetails, given: Mapping[str, object]) -> str:
    """`NAME=value: must be ...`."""
    variable = next((name for name in option.names if os.environ.get(name)), option.names[0])
    name = f"argument {option.path}" if option.path in given else variable
    raw = given[option.path] if option.path in given else os.environ.get(variable, detail["input"])
    line = f"{name}={MASK if option.secret else _shorten(raw)}: must be {option.allowed}"
    if _SERVICE_LINK.match(str(raw)):
        line += ". Kubernetes set it for a Service of that name: say enableServiceLinks: false in the pod's spec"
    return line


def _shorten(value: object, most: int = 120) -> str:
    text = repr(value)
    login, at, place = text.rpartition("@")
    if at:  # of a URL, or of what was meant as one
        text = f"{_SCHEME.match(login)[0]}{MASK}@{place}"  # type: ignore[index]  # it matches anything
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def settings_table() -> str:
    """All settings as Markdown: docs/settings.md."""
    lines = [_INTRODUCTION]
    for group, field in Settings.model_fields.items():
        members = [option for option in OPTIONS if option.group == group]
        if members:
            lines += ["", f"## {group}", "", (cast("type", field.annotation).__doc__ or "").strip(), "", _HEADER]
            lines += [_row(option) for option in members]
    return "\n".join(lines) + "\n"


_HEADER: Final = "| variable | default | allowed | meaning |\n| --- | --- | --- | --- |"
_INTRODUCTION: Final = """# Settings

Made by `python -m stream.settings.settings`; do not edit.

Set them in the environment. Where a second name stands, it is that of the batch contract; the first one wins if both
are set. An empty variable counts as not set. Sizes may carry a unit: `8MiB`. A `HEADRACE_` variable that is not listed
here is refused, so that a slip of the pen cannot go unnoticed. `headrace config` prints what is in force, with secrets
masked, and where each value came from."""


def _row(option: Option) -> str:
    names = "<br>".join(f"`{name}`" for name in option.names)
    default = f"`{option.default}`" if option.default else "empty"
    meaning = (option.info.description or "") + (" Secret: never printed." if option.secret else "")
    return f"| {names} | {default} | {option.allowed} | {meaning} |".replace("||", "| |")


if __name__ == "__main__":
    sys.stdout.write(settings_table())
