"""The fuzzer's targets by hypothesis: any bytes, and honest ones with some changed, never break a promise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import checkpoint, partfiles, plans, staged
from stream.decode import decode_one
from stream.events import Event
from stream.thrift import Reader
from tests.fakes import MemoryStore
from tests.fuzz import targets
from tests.rigs import LAYOUT

ROOT = Path(__file__).resolve().parents[2]
change = st.tuples(
    st.floats(0, 1),
    st.integers(0, 4),
    st.one_of(
        st.binary(max_size=4),
        st.sampled_from(
            [b"\xff" * 9, b"1" * 30, b'"', b"{" * 5, b"null", b"-1", b"1e400", b"../", b"\x80\x04.", b'"key":"x",']
        ),
    ),
)


def changed(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """`data` with bytes taken out and put in at some relative places."""
    for where, drop, put in changes:
        at = int(where * len(data))
        data = data[:at] + put + data[at + drop :]
    return data


def with_length(name: str, data: bytes, seed: bytes) -> bytes:
    """A Parquet file whose footer length is right again, so that its footer is read at all."""
    if name not in {"clicks", "ids"} or len(data) < 12:
        return data
    body = len(seed) - 8 - int.from_bytes(seed[-8:-4], "little")
    return data[:-8] + max(0, len(data) - 8 - body).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize("name", targets.TARGETS)
@given(changes=st.lists(change, max_size=4), pick=st.integers(0, 9))
def test_changed_bytes_break_no_promise(name: str, changes: list[tuple[float, int, bytes]], pick: int) -> None:
    """Nearly right is the most dangerous kind of wrong."""
    seeds = targets.seeds(name)
    seed = seeds[pick % len(seeds)]

    targets.TARGETS[name](with_length(name, changed(seed, changes), seed))


@pytest.mark.parametrize("name", targets.TARGETS)
@given(data=st.binary(max_size=300))
def test_any_bytes_break_no_promise(name: str, data: bytes) -> None:
    """What nobody would write."""
    targets.TARGETS[name](data)


def taken(read: Callable[[bytes], object]) -> Callable[[bytes], bool]:
    def takes(data: bytes) -> bool:
        read(data)
        return True

    return takes


def read_manifest(data: bytes) -> object:
    store = MemoryStore()
    store.put(LAYOUT.manifest(targets.SEQ), data)
    return checkpoint.read_manifest(store, LAYOUT.manifest(targets.SEQ))


TAKES: dict[str, Callable[[bytes], bool]] = {
    "message": lambda data: isinstance(decode_one(data, targets.NOW, targets.RULES), Event),
    "plan": taken(lambda data: plans.check_ranges(plans.decode(data, "x"), {}, "x")),
    "manifest": taken(read_manifest),
    "arrays": taken(lambda data: partfiles.read_arrays({"x": data})),
    "clicks": taken(lambda data: staged.decode(data, "x")),
    "footer": taken(lambda data: Reader(data).struct()),
    "ids": taken(partfiles.read_ids),
}


@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_are_honest(name: str) -> None:
    """Each target begins from bytes that it takes, else it would only ever see refusals."""
    reached: list[bytes] = []
    for data in targets.seeds(name):
        targets.TARGETS[name](data)
        if TAKES[name](data):
            reached.append(data)

    assert reached == targets.seeds(name)


def test_fuzzing_says_why_it_is_skipped(tmp_path: Path) -> None:
    """Without atheris the run ends well and says what to install; with it, one second of one target passes."""
    blocked = "import sys; sys.modules['atheris'] = None; import importlib.util as u; find = u.find_spec\n"
    blocked += "u.find_spec = lambda name, *more: None if name == 'atheris' else find(name, *more)\n"
    program = blocked + "from tests.fuzz import run; raise SystemExit(run.main(1, ['footer']))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0
    assert "atheris is not installed" in done.stderr
