"""Files as a store needs them: written whole and durably, locked, walked in key order, errors that name the path."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stream.errors import HeadraceError, StoreRefused, StoreUnavailable

_FULL = {errno.ENOSPC, errno.EDQUOT}
_PASSING = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_SHAPE = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise an OSError inside as one of our errors; `action` names the path."""
    try:
        yield
    except OSError as error:
        raise _kind(error, f"cannot {action}: {error.strerror}") from error


def _kind(error: OSError, said: str) -> HeadraceError:
    if error.errno in _FULL:
        return StoreUnavailable(f"{said}; free some space on that disk")
    if error.errno in _PASSING:
        return StoreUnavailable(f"{said}; try again")
    if error.errno in _FORBIDDEN:
        return StoreRefused(f"{said}; give this user the right to it, or choose another folder (HEADRACE_STORE)")
    if error.errno in _SHAPE:
        return StoreRefused(f"{said}; a key cannot also be the folder of another key: choose another key or folder")
    return StoreRefused(f"{said}; check that path")


def etag(status: os.stat_result) -> str:
    """Inode, time and size, which no two writes by `written` share; an edit by hand changes them too."""
    return f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'


def read(file: int, start: int, length: int) -> bytes:
    """Bytes [start, start + length) of an opened file, fewer at its end. Linux reads 2 GiB at a time at most."""
    pieces = []
    while length > 0 and (piece := os.pread(file, min(length, 1 << 30), start)):
        pieces.append(piece)
        start += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextmanager
def written(folder: Path, data: memoryview) -> Iterator[tuple[Path, str]]:
    """`data` in a temporary file in `folder`, durably: its path and its ETag. Removed afterwards, unless moved away."""
    path, file = _fresh(folder)
    try:
        while data.nbytes:
            data = data[os.write(file, data) :]
        # The kernel's own stamp is as coarse as its tick; an ETag must tell apart two writes within one.
        now = time.time_ns()
        os.utime(file, ns=(now, now))
        os.fsync(file)
        yield path, etag(os.fstat(file))
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _fresh(folder: Path) -> tuple[Path, int]:
    """A new temporary file, locked to say that its writer lives. A cleaner may come between: then another one."""
    while True:
        path = folder / uuid.uuid4().hex
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return path, file
        os.close(file)


def clean(folder: Path) -> None:
    """Remove the temporary files of writers that died: the lock of a living one is held. Other users' are theirs."""
    for path in folder.iterdir():
        gone_or_alive_or_foreign = suppress(FileNotFoundError, BlockingIOError, PermissionError)
        with gone_or_alive_or_foreign, locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB, create=False):
            path.unlink()


@contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX, *, create: bool = True) -> Iterator[None]:
    """Exclude other threads and processes: the lock belongs to the opened file, and each opens its own."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
    try:
        fcntl.flock(file, how)
        yield
    finally:
        os.close(file)


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def remove_empty(folder: Path, root: Path) -> None:
    """Remove `folder` and those above it, up to `root`, as far as they are empty; durably."""
    sync_folder(folder)
    while folder != root:
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                raise
            return
        folder = folder.parent
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in it durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def walk(folder: Path, base: str, prefix: str, start_after: str) -> Iterator[tuple[str, Path]]:
    """Keys that start with `prefix` and are greater than `start_after`, with their paths, in key order.

    `base`: what the keys of `folder` begin with. Only folders that can hold such keys are read. A folder sorts as its
    name with a slash: S3 compares whole keys, so `a-b` comes before `a/b`. Code points compare as their UTF-8 does.
    """
    for key, path in _entries(folder, base):
        if not key.endswith("/"):
            if key > start_after and key.startswith(prefix):
                yield key, path
        elif _may_hold(key, prefix) and (key > start_after or start_after.startswith(key)):
            yield from walk(path, key, prefix, start_after)


def _may_hold(folder_key: str, prefix: str) -> bool:
    return folder_key.startswith(prefix) or prefix.startswith(folder_key)


def _entries(folder: Path, base: str) -> list[tuple[str, Path]]:
    """What the folder holds, sorted; a subfolder's key ends with a slash. Links, sockets and so on are no objects."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found.append((f"{base}{entry.name}/", Path(entry.path)))
            elif entry.is_file(follow_symlinks=False):
                found.append((base + entry.name, Path(entry.path)))
    return sorted(found)
