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
_HASHED = 16


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies under one checkpoint's prefix. `seq` is the one before where the folder's name is none."""

    seq: int
    home: str
    objects: list[ObjectInfo]
    named: bool

    @property
    def manifest_key(self) -> str | None:
        """None for what is left of a checkpoint that was begun and not finished, or half collected."""
        key = f"{self.home}{_MANIFEST}"
        return key if self.named and any(info.key == key for info in self.objects) else None


def folders(store: ObjectStore, root: str) -> Iterator[Folder]:
    """The checkpoints under `root`, in the order of their seq, read lazily."""
    prefix, seq = f"{root}/checkpoint/", -1
    for name, objects in groupby(store.list(prefix), key=lambda info: info.key[len(prefix) :].split("/")[0]):
        named = _SEQ.fullmatch(name) is not None
        seq = int(name) if named else seq
        yield Folder(seq, f"{prefix}{name}/", list(objects), named)


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
    if (manifest.lineage, manifest.seq) != (lineage, folder.seq):
        what = f"it says that it is checkpoint {manifest.seq} of lineage {manifest.lineage}"
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
