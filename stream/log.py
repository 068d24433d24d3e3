"""The log: lines for people or JSON for machines, on standard error, with secrets masked wherever they turn up.

`configure` once at the start; then `structlog.get_logger()` anywhere. What libraries say through `logging` takes the
same way out.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Iterable
from typing import Any, Final, Literal, TextIO
from urllib.parse import quote

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK: Final = "********"
SELDOM_SECONDS: Final = 30.0
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SECRET_KEY: Final = re.compile(
    r"password|passwd|secret|token|credential|authorization|access_?key|api_?key", re.IGNORECASE
)
# To the last @, for a password may hold anything but white space and quotes.
_SECRET_URL: Final = re.compile(r"(?<=://)[^\s\"']+(?=@)")
# These tell at `info` what Headrace itself tells better, or tell far too much.
_CHATTY: Final = ("boto3", "botocore", "kafka", "ray", "s3transfer", "urllib3", "uvicorn")


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    style: Literal["console", "json"] = "console",
    secrets: Iterable[str] = (),
    out: TextIO | None = None,
) -> None:
    """Send every log line of this process to `out` (standard error), from `level` on. May be called again.

    `secrets`: texts that are masked wherever they occur, tracebacks included.
    """
    global _secrets  # noqa: PLW0603 - as the log itself, one per process
    _secrets = _spellings(secrets)
    out = out if out is not None else sys.stderr
    shared = _shared_processors()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Loggers are made at import, before this: caching them would keep what they found then.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Masking(shared, _renderer(style, out)))
    handler.addFilter(_Seldom())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(LEVELS[level])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.WARNING))
    # Warns when a call takes a tenth of a second, which on a busy machine means nothing.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)


_secrets: tuple[str, ...] = ()


def masked(text: str) -> str:
    """`text` without the secrets that `configure` was told, and without logins in URLs: for all that is printed."""
    text = _SECRET_URL.sub(MASK, text)
    for secret in _secrets:
        text = text.replace(secret, MASK)
    return text


def _spellings(secrets: Iterable[str]) -> tuple[str, ...]:
    """The secrets as they may turn up, the longest first. Short ones would mask half the language."""
    # In JSON, in a repr and in a URL, a secret with a quote in it looks different.
    forms = {
        form
        for secret in secrets
        for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret), quote(secret, safe=""))
    }
    return tuple(sorted((form for form in forms if len(form) >= 4), key=len, reverse=True))


class _Seldom(logging.Filter):
    """Kafka's client repeats itself several times a second while a broker is away: one line of each of its modules in
    `SELDOM_SECONDS` is enough, beside what Headrace says itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        if record.name.partition(".")[0] != "kafka":
            return True
        if record.created - self._said.get(record.name, -math.inf) < SELDOM_SECONDS:
            return False
        self._said[record.name] = record.created
        return True


class _Masking(structlog.stdlib.ProcessorFormatter):
    """Renders an entry, then masks the known secrets in the finished line: nothing can be hidden from it by nesting."""

    def __init__(self, shared: list[Processor], render: list[Processor]) -> None:
        drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
        super().__init__(foreign_pre_chain=shared, processors=[drop, _mask_keys, _event_first, *render])

    def format(self, record: logging.LogRecord) -> str:
        # A lone surrogate (a broken file name) cannot be written out.
        return masked(super().format(record).encode("utf-8", "backslashreplace").decode())


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
    ]


def _renderer(style: str, out: TextIO) -> list[Processor]:
    if style == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_to_json)]
    colors = out.isatty()
    plain = structlog.dev.plain_traceback
    return [
        structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time", sort_keys=False, exception_formatter=plain)
    ]


def _to_json(entry: EventDict, **_: Any) -> str:
    """Strict JSON whatever the values: NaN, which a loss can be and JSON has not, becomes its name."""
    try:
        return json.dumps(entry, default=str, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        return json.dumps({str(key): str(value) for key, value in entry.items()}, ensure_ascii=False)


def _mask_keys(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask values whose name says that they are secret."""
    for key, value in event.items():
        if value and _SECRET_KEY.search(key):
            event[key] = MASK
    return event


def _event_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What happened, how bad, when; then the rest."""
    event.pop("_ray_timestamp_ns", None)  # Ray adds it to every record of the process
    first: dict[str, Any] = {key: event.pop(key) for key in ("event", "level", "time") if key in event}
    return {**first, **event}
