"""The object store door to a local directory: S3's semantics on files that people can read, copy and put there by hand.

An object is the file of its key's name. Writers work in `.headrace/tmp` and publish a finished, fsynced file by one
link (create-once) or rename; replacing and deleting exclude each other by a lock on `.headrace/lock`, across processes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from stream.errors import NotFound, PreconditionFailed, StoreRefused
from stream.ports import Blob, ObjectInfo
from stream.store import files
from stream.store.keys import check_key, check_prefix

RESERVED = ".headrace"
OBJECT_BYTES_MAX = 4 << 30
PUBLISH_ATTEMPTS = 10
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


class DirectoryStore:
    """`ObjectStore` on the folder `root`, made if missing. Safe among the threads and processes of one machine.

    A key cannot also be the folder of another key. Symbolic links below the root are refused: they could lead out.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Raises `StoreRefused` when `root` is not, and cannot become, a folder."""
        with files.translated(f"use {os.fspath(root)} as a store"):
            Path(root).mkdir(parents=True, exist_ok=True)
            self.root = Path(root).resolve(strict=True)
        self._prepared = False

    def __reduce__(self) -> tuple[type[DirectoryStore], tuple[Path]]:
        return DirectoryStore, (self.root,)

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self.root)!r})"

    def __str__(self) -> str:
        return f"the folder {self.root}"

    def get(self, key: str) -> Blob:
        """The whole object, up to 4 GiB: a larger one raises `StoreRefused`."""
        with self._opened(key) as (file, status):
            if status.st_size > OBJECT_BYTES_MAX:
                raise StoreRefused(
                    f"{self._path(key)} has {status.st_size:,} bytes, more than the {OBJECT_BYTES_MAX:,} that are read "
                    "at once: is it what Headrace wrote there? If so, read it in ranges"
                )
            return Blob(files.read(file, 0, status.st_size), files.etag(status))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length). An empty range, or one behind the end, is empty."""
        if start < 0 or length < 0:
            raise ValueError(f"get_range of {key!r}: start {start} and length {length} must not be negative")
        with self._opened(key) as (file, status):
            return files.read(file, start, min(length, max(status.st_size - start, 0)))

    def head(self, key: str) -> ObjectInfo:
        with self._opened(key) as (_, status):
            return _info(key, status)

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write whole; see the port."""
        if if_absent and if_match is not None:
            raise ValueError(f"put of {key!r}: if_absent and if_match exclude each other")
        path = self._path(key)
        publish = self._create if if_absent else partial(self._replace, if_match=if_match)
        with files.translated(f"write {path}"):
            with files.written(self._scratch(), memoryview(data).cast("B")) as (temp, etag):
                self._publish(temp, path, publish)
            return etag

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """In key order, folder by folder: only what can hold such keys is read."""
        base = check_prefix(prefix)[: prefix.rfind("/") + 1]
        with files.translated(f"list {self.root}/{prefix}"):
            self._check_root()
            for key, path in files.walk(self.root / base, base, prefix, start_after):
                # An object that goes while the listing is under way may be in it or not.
                with suppress(FileNotFoundError):
                    if not key.startswith(f"{RESERVED}/"):
                        yield _info(key, path.lstat())

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove, with the folders that it leaves empty; an object that is not there is no error."""
        path = self._path(key)
        with files.translated(f"delete {path}"):
            self._check_root()
            if not path.is_file():
                return
            with self._locked():
                if path.is_file():
                    _check_match(path, if_match)
                    path.unlink()
                    files.remove_empty(path.parent, self.root)

    def _path(self, key: str) -> Path:
        path = self.root.joinpath(check_key(key))
        if key == RESERVED or key.startswith(f"{RESERVED}/"):
            raise StoreRefused(f"object key {key!r}: {RESERVED} is the store's own folder, choose another name")
        if path.resolve() != path:
            raise StoreRefused(f"{path} leads through a symbolic link: put a real folder or file in its place")
        return path

    def _check_root(self) -> None:
        """An empty store and one whose disk is not mounted look alike, unless one asks."""
        if not self.root.is_dir():
            raise StoreRefused(f"the store's folder {self.root} is gone: mount its disk, or restore it")

    def _scratch(self) -> Path:
        """The folder of temporary files; before the first write, those of crashed writers are removed."""
        self._check_root()
        folder = self.root / RESERVED / "tmp"
        if not self._prepared:
            files.make_folder(folder)
            files.clean(folder)
            self._prepared = True
        return folder

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, os.stat_result]]:
        path = self._path(key)
        with files.translated(f"read {path}"):
            try:
                file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError) as error:
                self._check_root()
                raise NotFound(f"there is no {path}") from error
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise NotFound(f"there is no object {path}: it is no file")
                yield file, status
            finally:
                os.close(file)

    def _publish(self, temp: Path, path: Path, publish: Callable[[Path, Path], None]) -> None:
        for attempt in range(1, PUBLISH_ATTEMPTS + 1):
            try:
                files.make_folder(path.parent)
                publish(temp, path)
                break
            except FileNotFoundError:
                # A delete has just removed the folder, which was empty: make it again.
                if attempt == PUBLISH_ATTEMPTS:
                    raise
        # Gone again already, folder and all: then there is no name to make durable.
        with suppress(FileNotFoundError):
            files.sync_folder(path.parent)

    def _create(self, temp: Path, path: Path) -> None:
        try:
            path.hardlink_to(temp)
        except FileExistsError as error:
            raise PreconditionFailed(f"{path} exists already") from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # exFAT and some network file systems have no links; there every writer goes by the lock.
            with self._locked():
                if os.path.lexists(path):
                    raise PreconditionFailed(f"{path} exists already") from error
                temp.rename(path)

    def _replace(self, temp: Path, path: Path, if_match: str | None) -> None:
        with self._locked():
            _check_match(path, if_match)
            temp.rename(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._scratch()
        with files.locked(self.root / RESERVED / "lock"):
            yield


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, files.etag(status), status.st_mtime)


def _check_match(path: Path, if_match: str | None) -> None:
    if if_match is None:
        return
    try:
        etag = files.etag(path.lstat())
    except FileNotFoundError as error:
        raise PreconditionFailed(f"{path} is gone, so it has no ETag {if_match}") from error
    if etag != if_match:
        raise PreconditionFailed(f"{path} has the ETag {etag}, not {if_match}")
