"""One target under atheris: `python -m tests.fuzz.one NAME CORPUS [libFuzzer options]`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["stream.decode", "stream.stamps", "stream.plans", "stream.checkpoint"]):
    from stream import checkpoint, decode, plans, stamps  # noqa: F401
with atheris.instrument_imports(include=["stream.thrift", "stream.footer", "stream.parquet", "stream.partfiles"]):
    from stream import footer, parquet, partfiles, thrift  # noqa: F401
from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()
