"""Checkpoints as `headrace verify` sees them: where a MANIFEST lies, every part must be as it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from stream.errors import NotFound
from stream.ports import ObjectInfo, ObjectStore
from stream.verify.forms import Breach, Malformed, ManifestDoc, PartDoc, parse_manifest
from stream.verify.reading import check_object, document, exists

_MANIFEST = "MANIFEST.json"
_SEQ = re.compile(r"[0-9]{20}")
_VERSION = re.compile(r"[0-9]{6}")
_HASHED = 16


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies under one checkpoint's prefix. `seq` is the one before where the folder's name is none."""

    seq: int
    home: str
    objects: list[ObjectInfo]
    named: bool
    version: int = 1

    @property
    def manifest_key(self) -> str | None:
        """None for what is left of a checkpoint that was begun and not finished, or half collected."""
        key = f"{self.home}{_MANIFEST}"
        return key if self.named and any(info.key == key for info in self.objects) else None


def homes(store: ObjectStore, root: str) -> dict[int, str]:
    """Where what belongs to each version of the model lies, by its number; the first one's is the lineage's own."""
    found, prefix, after = {1: root}, f"{root}/version/", ""
    while (info := next(iter(store.list(prefix, after)), None)) is not None:
        name = info.key[len(prefix) :].split("/")[0]
        if _VERSION.fullmatch(name) and int(name) > 1:
            found[int(name)] = f"{prefix}{name}"
        after = f"{prefix}{name}~"  # greater than any key below it: names there begin with less than a tilde
    return found


def folders(store: ObjectStore, home: str, version: int = 1) -> Iterator[Folder]:
    """The checkpoints of a version, under its home, in the order of their seq, read lazily."""
    prefix, seq = f"{home}/checkpoint/", -1
    for name, objects in groupby(store.list(prefix), key=lambda info: info.key[len(prefix) :].split("/")[0]):
        named = _SEQ.fullmatch(name) is not None
        seq = int(name) if named else seq
        yield Folder(seq, f"{prefix}{name}/", list(objects), named, version)


@dataclass(frozen=True, slots=True)
class Checked:
    """A checkpoint's MANIFEST, None where it cannot be read; sizes of what verified; what nobody names."""

    manifest: ManifestDoc | None
    breaches: list[Breach]
    sizes: list[int]
    strays: list[ObjectInfo]


def check(store: ObjectStore, folder: Folder, lineage: str) -> Checked:
    """Read a checkpoint whole. One that is collected meanwhile has no breaches."""
    key = folder.manifest_key
    if key is None:
        return Checked(None, [], [], folder.objects)
    try:
        manifest = parse_manifest(document(store, key))
    except NotFound:
        return Checked(None, [], [], [])
    except Malformed as error:
        return Checked(None, [Breach("manifest_form", key, str(error))], [], [])
    found = list(_place(key, folder, manifest, lineage))
    sizes = [info.size for info in folder.objects if info.key == key]
    for part in manifest.parts:
        if (breach := _part(store, folder.home, part)) is not None:
            found.append(breach)
        else:
            sizes.append(part.size)
    known = {key, *(part.key for part in manifest.parts)}
    strays = [info for info in folder.objects if info.key not in known]
    return Checked(manifest, found if found and exists(store, key) else [], sizes, strays)


def _place(key: str, folder: Folder, manifest: ManifestDoc, lineage: str) -> Iterator[Breach]:
    if (manifest.lineage, manifest.version, manifest.seq) != (lineage, folder.version, folder.seq):
        what = f"it says that it is checkpoint {manifest.seq} of lineage {manifest.lineage}, version {manifest.version}"
        yield Breach("manifest_place", key, what)
    if not manifest.parts:
        yield Breach("manifest_form", key, "it names no parts")


def _part(store: ObjectStore, home: str, part: PartDoc) -> Breach | None:
    stem, _, ending = part.name.partition(".")
    if part.key != f"{home}{stem}.{part.sha256[:_HASHED]}.{ending}" or "/" in part.name:
        return Breach(
            "foreign_key", f"{home}{_MANIFEST}", f"part {part.name!r:.80} is said to lie at {part.key!r:.200}"
        )
    try:
        check_object(store, part.key, part.size, part.sha256)
    except NotFound:
        return Breach("part_missing", part.key, "there is no such object")
    except Malformed as error:
        return Breach("part_altered", part.key, str(error))
    return None
