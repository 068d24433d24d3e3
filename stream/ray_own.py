"""A Ray of our own: it listens on loopback alone, and wants a token that only this process and its Ray know.

Whoever may talk to a Ray runs code in it. Left to itself Ray listens on every address of the machine, and keeps one
token for all its clusters, which stays in the home directory where everybody on the machine may read it.

Ray's processes inherit this process's environment, as ever, and with it whatever secrets stand there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import ray
from ray import _raylet
from ray._private import ray_constants

LOOPBACK: Final = "127.0.0.1"


def start(options: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Start Ray and join it. `environment`: what its processes have beside ours. Raises what `ray.init` raises."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with _variables({**environment, **token}), _on_loopback():
        read_environment_again()
        ray.init(
            address="local", _node_ip_address=LOOPBACK, include_dashboard=False, dashboard_host=LOOPBACK, **options
        )


def end() -> None:
    """End it. The next cluster that this process joins is asked with what the environment says by then."""
    ray.shutdown()
    read_environment_again()


def read_environment_again() -> None:
    """Have Ray forget the token mode and the token, which it reads once for the whole life of a process."""
    inner: Any = _raylet  # compiled, and without stubs
    inner.Config.initialize("")
    inner.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray take loopback for this machine's address, as it does by itself on a Mac.

    Told the address alone, it replaces it by one that others can reach.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Have `values` in the environment for a while: what is started meanwhile keeps them."""
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(before)
