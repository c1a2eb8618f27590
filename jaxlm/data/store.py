# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Documents as one flat file of tokens, written once and memory-mapped: `eot d1 eot d2 ... eot dn eot`.

With a splitter of sentences, sentences are tokenised one by one and where each begins is kept. A pair is one document, its source and
then its target, and where the target begins is kept.

Each document begins with eot and is ended by the next one's, so the targets are the stream shifted by one. A store is
named by what went into it, appears whole or not at all, and is checked when it is opened.
"""
import array
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxlm.core import files
from jaxlm.core.errors import UserError
from jaxlm.core.log import Progress, say
from jaxlm.data import digest
from jaxlm.data import documents as of
from jaxlm.data.sentences import SPLITTERS
from jaxlm.data.tokenizers.tokenizer import Tokenizer

FORMAT = 1
SIDES = ("train", "eval")
FILES = ("tokens.bin", "offsets.npy", "bytes.npy")
SENTENCES = "sentences.npy"  # of stores with sentences
TARGETS = "targets.npy"  # of stores of pairs
# Documents are encoded in lists of about this many characters: enough for all cores, little memory.
_BATCH_CHARACTERS = 1 << 21
_LOCKLESS_STALE_SECONDS = 86400.0


@dataclasses.dataclass(frozen=True)
class Store:
    """tokens: the stream, uint16 or uint32, memory-mapped. offsets int64 [documents + 1]: where each document's eot is;
    the last is the trailing eot. bytes int64 [documents]: UTF-8 bytes of each document's text, of a pair its target's.
    eot: the separator. sentences int64: where each sentence begins, or None; an eot belongs to none. targets int64
    [documents]: where each pair's target begins, or None."""
    tokens: np.ndarray
    offsets: np.ndarray
    bytes: np.ndarray
    eot: int
    sentences: np.ndarray | None = None
    targets: np.ndarray | None = None

    @property
    def documents(self) -> int:
        return len(self.bytes)

    @property
    def predicted(self) -> int:
        """Tokens to predict, each document's separator among them: all of the texts, or those of the targets."""
        return len(self.tokens) - 1 if self.targets is None else int((self.offsets[1:] - self.targets).sum()) + self.documents

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the stream as int32."""
        return self.tokens[start:stop].astype(np.int32)

    def document(self, i: int) -> np.ndarray:
        """Tokens of document i without its eot, int32."""
        if not 0 <= i < self.documents:
            raise IndexError(f"document {i} of a store of {self.documents}")
        return self.slice(self.offsets[i] + 1, self.offsets[i + 1])

    def head(self, documents: int) -> "Store":
        """The first `documents` documents (all, when there are fewer), as a store over the same file."""
        n = min(documents, self.documents)
        kept = self.sentences if self.sentences is None else self.sentences[self.sentences < self.offsets[n]]
        targets = self.targets if self.targets is None else self.targets[:n]
        return Store(self.tokens[:self.offsets[n] + 1], self.offsets[:n + 1], self.bytes[:n], self.eot, kept, targets)


def held_out(document: of.Document, holdout: float) -> bool:
    """Whether a document is on the eval side: by its content, so it never moves and no copy is on the other side."""
    value = int.from_bytes(hashlib.blake2b(of.content(document), digest_size=8).digest(), "little")
    return value % 10000 < round(holdout * 10000)


def training_side(documents: Iterator[of.Document], holdout: float) -> Iterator[str]:
    """The texts of the documents that are not held out: what a tokenizer may learn from."""
    return of.texts(document for document in documents if not held_out(document, holdout))


def build(cache_dir: str | os.PathLike, documents: Callable[[], Iterator[of.Document]], fingerprint: dict, tokenizer: Tokenizer,
          holdout: float, which: str = "train", text_bytes: int = 0, verify: bool = True, sentences: str = "", pairs: bool = False) -> Store:
    """The store of one side of a source: opened when it is there, else both sides are written in one pass.

    documents, fingerprint: the documents, and JSON that says what they are. holdout: fraction of
    documents for "eval", in [0, 1]. text_bytes: all bytes of text, for the progress bar, 0 when not known.
    sentences: how documents are split into sentences (a name in sentences.SPLITTERS), "" where they need not be.
    pairs: the documents are pairs.
    Any number of processes may ask at once: one builds and the others wait. Raises UserError where the side has no
    document or a store is damaged.
    """
    if which not in SIDES:
        raise ValueError(f"which={which!r} must be one of {SIDES}")
    if not 0.0 <= holdout <= 1.0:
        raise UserError(f"holdout={holdout} must be in [0, 1]")
    cache, name = pathlib.Path(cache_dir), key(fingerprint, tokenizer, holdout, sentences, pairs)
    folders = {side: cache / f"{side}-{name}" for side in SIDES}
    if not folders[which].exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            waiting = lambda who: say(f"waiting for {who}, which builds the token store in {cache}")
            # Where there are no locks two builders may both work, and the first to finish wins.
            with files.locked(cache / f".{name}.lock", waiting) as locked:
                _remove_leftovers(cache, name, locked)
                if not folders[which].exists():
                    _write(cache, name, folders, documents(), fingerprint, tokenizer, holdout, text_bytes, sentences, pairs)
        except OSError as e:
            raise UserError(f"cannot write the token store in {cache}: {e.strerror or e}; free space there or set "
                            "data.cache_dir to another folder") from e
    store = open_store(folders[which], verify)
    if not store.documents:
        other = "eval" if which == "train" else "train"
        way = "lower" if which == "train" else "raise"
        raise UserError(f"no document is on the {which} side with data.holdout={holdout} (all are on the {other} "
                        f"side): {way} data.holdout, or split the source into more documents")
    return store


def key(fingerprint: dict, tokenizer: Tokenizer, holdout: float, sentences: str = "", pairs: bool = False) -> str:
    """16 hex digits that name the stores of a source, tokenizer, holdout and what else the documents are made into."""
    parts = [FORMAT, fingerprint, tokenizer.fingerprint, float(holdout), *([sentences] if sentences else []), *([True] if pairs else [])]
    return digest.of_json(parts)[:16]


def open_store(folder: str | os.PathLike, verify: bool = True) -> Store:
    """A store as it was written; sizes are always checked, every checksum when `verify`. Raises UserError."""
    folder = pathlib.Path(folder)

    def damaged(file: str, what: str) -> UserError:
        return UserError(f"token store {folder}: {file} {what}; delete the folder and rerun to rebuild it")

    try:
        meta = json.loads((folder / "meta.json").read_text())
        version, dtype, sizes, sums = meta["format"], np.dtype(meta["dtype"]), meta["sizes"], meta["checksums"]
        counts = {name: int(meta[name]) for name in ("tokens", "documents", "eot")}
    except FileNotFoundError as e:
        raise UserError(f"{folder} is no token store: it has no meta.json; delete the folder and rerun to "
                        "rebuild it") from e
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise damaged("meta.json", f"is damaged ({e!r})") from e
    if version != FORMAT:
        raise damaged("meta.json", f"has format {version}, this version reads format {FORMAT}")
    for name in sizes:
        try:
            size = (folder / name).stat().st_size
        except OSError as e:
            raise damaged(name, f"cannot be read ({e.strerror})") from e
        if size != sizes[name]:
            raise damaged(name, f"has {size} bytes instead of {sizes[name]}")
        if verify and digest.of_file(folder / name) != sums[name]:
            raise damaged(name, "does not have the content it was written with (wrong checksum)")
    try:
        offsets, lengths = np.load(folder / "offsets.npy"), np.load(folder / "bytes.npy")
        sentences, targets = (np.load(folder / name) if name in sizes else None for name in (SENTENCES, TARGETS))
    except (OSError, ValueError) as e:
        raise damaged("offsets.npy, bytes.npy, sentences.npy or targets.npy", f"is damaged ({e})") from e
    if not {*FILES} <= {*sizes} <= {*sums} or sizes["tokens.bin"] != counts["tokens"] * dtype.itemsize or len(lengths) != counts["documents"] \
            or len(offsets) != len(lengths) + 1 or offsets[-1] != counts["tokens"] - 1 \
            or targets is not None and len(targets) != len(lengths):
        raise damaged("meta.json", "contradicts the files")
    return Store(np.memmap(folder / "tokens.bin", dtype, "r"), offsets, lengths, counts["eot"], sentences, targets)


class _Side:
    """One side being written in its own hidden folder."""

    def __init__(self, cache: pathlib.Path, side: str, name: str, tokenizer: Tokenizer, marks: str):
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=cache, prefix=f".{side}-{name}.tmp-"))
        self.dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self.eot = np.array([tokenizer.eot], self.dtype)
        self.file = open(self.folder / "tokens.bin", "wb")
        self.hash = hashlib.blake2b(digest_size=16)
        self.tokens, self.offsets, self.bytes = 0, array.array("q"), array.array("q")
        self.marks, self.marked = array.array("q"), marks  # where parts of documents begin, and the file that says so, "" for none

    def add(self, documents: list[list[np.ndarray]], sizes: list[int]) -> None:
        """Documents as the tokens of their parts (sentences, or the two of a pair; one, where they are whole), and their bytes."""
        pieces = []
        for parts, size in zip(documents, sizes, strict=True):
            self.offsets.append(self.tokens)
            self.bytes.append(size)
            pieces.append(self.eot)
            self.tokens += 1
            for number, part in enumerate(parts):
                if self.marked == SENTENCES and len(part) or self.marked == TARGETS and number:
                    self.marks.append(self.tokens)
                pieces.append(part.astype(self.dtype))
                self.tokens += len(part)
        self._put(pieces)

    def _put(self, pieces: list[np.ndarray]) -> None:
        block = np.concatenate(pieces).tobytes()
        self.hash.update(block)
        self.file.write(block)

    def finish(self, target: pathlib.Path, facts: dict[str, Any]) -> None:
        """Complete the folder, force it to the disk and give it its name; the one that is there first stays."""
        self.offsets.append(self.tokens)
        self.tokens += 1
        self._put([self.eot])
        _sync(self.file)
        self.file.close()
        arrays = {"offsets.npy": self.offsets, "bytes.npy": self.bytes}
        if self.marked:
            arrays[self.marked] = self.marks
        for name, values in arrays.items():
            with open(self.folder / name, "wb") as f:
                np.save(f, np.frombuffer(values, np.int64) if len(values) else np.zeros(0, np.int64))
                _sync(f)
        sums = {name: digest.of_file(self.folder / name) for name in arrays} | {"tokens.bin": self.hash.hexdigest()}
        meta = facts | {
            "format": FORMAT, "dtype": self.dtype.str, "tokens": self.tokens, "documents": len(self.bytes),
            "bytes": sum(self.bytes), "sizes": {name: (self.folder / name).stat().st_size for name in sums},
            "checksums": sums}
        with open(self.folder / "meta.json", "w") as f:
            json.dump(meta, f, indent=1)
            _sync(f)
        _sync_folder(self.folder)
        os.chmod(self.folder, 0o755)  # mkdtemp gives 0700, and a store may be shared
        try:
            os.rename(self.folder, target)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(self.folder)
        _sync_folder(target.parent)

    def drop(self) -> None:
        self.file.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _write(cache: pathlib.Path, name: str, folders: dict[str, pathlib.Path], documents: Iterator[of.Document],
           fingerprint: dict, tokenizer: Tokenizer, holdout: float, text_bytes: int, sentences: str, pairs: bool) -> None:
    """Both sides in one pass; an empty side is written too, so that it is known to be empty."""
    began, sides, read = time.monotonic(), {}, 0
    marks = TARGETS if pairs else SENTENCES if sentences else ""
    try:
        for side in SIDES:
            sides[side] = _Side(cache, side, name, tokenizer, marks)
        with Progress(text_bytes or None, "tokenizing", "bytes", unit_scale=True) as bar:
            for batch in _batches(documents, pairs):
                ids, sizes = _encode(tokenizer, batch, sentences, pairs), [of.sizes(document) for document in batch]
                chosen = [SIDES[held_out(document, holdout)] for document in batch]
                for side in set(chosen):
                    sides[side].add([i for i, c in zip(ids, chosen) if c == side],
                                    [predicted for (_, predicted), c in zip(sizes, chosen) if c == side])
                read += sum(whole for whole, _ in sizes)
                bar.update(sum(whole for whole, _ in sizes))
        for side in SIDES:
            facts = {"side": side, "holdout": holdout, "vocab_size": tokenizer.vocab_size, "eot": tokenizer.eot,
                     "tokenizer": tokenizer.fingerprint, "source": fingerprint}
            sides[side].finish(folders[side], facts)
    except BaseException:
        for side in sides.values():
            side.drop()
        raise
    tokens = sum(s.tokens for s in sides.values())
    if tokens > 2:
        say(f"tokenized {sum(len(s.bytes) for s in sides.values()):,} {'pairs' if pairs else 'documents'}, {read:,} bytes into {tokens:,} "
            f"tokens ({read / tokens:.2f} bytes per token) in {time.monotonic() - began:.1f} s, kept in {cache}")


def _encode(tokenizer: Tokenizer, batch: list[of.Document], sentences: str, pairs: bool) -> list[list[np.ndarray]]:
    """The tokens of each document, sentence by sentence or side by side."""
    if pairs:
        ids = map(tokenizer.side, tokenizer.encode_batch(list(of.texts(batch))))
        return [[next(ids), next(ids)] for _ in batch]
    if not sentences:
        return [[ids] for ids in tokenizer.encode_batch(batch)]
    split = [SPLITTERS[sentences](text) for text in batch]
    ids = iter(tokenizer.encode_batch([sentence for parts in split for sentence in parts]))
    return [[next(ids) for _ in parts] for parts in split]


def _batches(documents: Iterator[of.Document], pairs: bool) -> Iterator[list[of.Document]]:
    batch, size = [], 0
    for document in documents:
        if isinstance(document, of.Pair) != pairs:
            raise UserError(f"the source yields {'texts' if pairs else 'pairs'} and its Config says with `pairs` that it does not")
        if document:
            batch.append(document)
            size += sum(map(len, of.texts([document])))
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _remove_leftovers(cache: pathlib.Path, name: str, locked: bool) -> None:
    """Remove what killed builders left. Under the lock every hidden folder of this store is one; else, if old."""
    for side in SIDES:
        for folder in cache.glob(f".{side}-{name}.tmp-*"):
            with contextlib.suppress(FileNotFoundError):
                if locked or time.time() - max(p.stat().st_mtime for p in (folder, *folder.iterdir())) > \
                        _LOCKLESS_STALE_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: pathlib.Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
