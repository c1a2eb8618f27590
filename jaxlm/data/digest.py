# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Content digests of files, remembered by path, size, mtime and ctime: a large unchanged corpus is read once, not every run."""
import hashlib
import json
import os
import pathlib
import time

from jaxlm.core.files import write_atomically

# A file changed this shortly before it was read could change again under the same size and times: not remembered.
RACY_NS = 2_000_000_000


def of_bytes(*parts: bytes) -> str:
    """blake2b of the parts, each preceded by its length, as 32 hex digits."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()


def of_json(value: object) -> str:
    """Digest of a JSON value, independent of the order of its keys."""
    return of_bytes(json.dumps(value, sort_keys=True).encode())


def of_file(path: str | os.PathLike) -> str:
    """blake2b of a file's content, as 32 hex digits, with O(1) memory."""
    h = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as f:
        while block := f.read(1 << 22):
            h.update(block)
    return h.hexdigest()


class Digests:
    """`digests(path)` is `of_file(path)`; known ones come from the JSON file at `cache` ("" keeps them in memory only).

    The cache only saves time: a missing or damaged one is rebuilt.
    """

    def __init__(self, cache: str | os.PathLike = ""):
        self._cache = pathlib.Path(cache) if cache else None
        self._known: dict[str, list] = {}
        self._changed = False
        if self._cache and self._cache.exists():
            try:
                known = json.loads(self._cache.read_text())
                self._known = {k: v for k, v in known.items() if isinstance(v, list) and len(v) == 4}
            except (OSError, ValueError, AttributeError):
                self._known = {}

    def __call__(self, path: str | os.PathLike) -> str:
        name, stat = os.path.abspath(path), os.stat(path)
        # What copies a file may give it any mtime; its ctime is the system's own.
        now = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        known = self._known.get(name)
        if known and known[:3] == now:
            return known[3]
        digest = of_file(path)
        if time.time_ns() - max(now[1:]) > RACY_NS:
            self._known[name] = [*now, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Write the cache, atomically, when something was added."""
        if self._cache and self._changed:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._cache, json.dumps(self._known))
            self._changed = False
