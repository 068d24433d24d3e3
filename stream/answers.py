"""Answers of the HTTP doors: JSON, and problem JSON (RFC 9457) for errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


async def refused(_request: Request, error: HTTPException) -> Response:
    """A request that was refused, with what to do."""
    return problem(error.status_code, error.detail, error.headers)


async def failed(_request: Request, _error: Exception) -> Response:
    """A request at which we failed."""
    # Starlette raises the error again behind this answer, so the log has it; the caller need not know it.
    return problem(500, "Headrace failed on this request; its log says more")


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error for a person and a program."""
    response = json_answer({"status": status, "detail": detail}, status)
    response.headers.update({"content-type": "application/problem+json", **(headers or {})})
    return response


def json_answer(value: Mapping[str, Any], status: int = 200) -> Response:
    """One JSON object."""
    # msgspec writes a NaN, which JSON has not, as null.
    body = msgspec.json.encode(value) + b"\n"
    return Response(body, status, {"content-type": "application/json", "cache-control": "no-store"})
