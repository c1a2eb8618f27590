# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What a source yields: a text, or a pair of a source text and its target (a sentence and its translation)."""
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxlm.core.errors import UserError


class Pair(NamedTuple):
    """What an encoder-decoder reads, and what it is to answer; neither is blank."""
    source: str
    target: str


Document = str | Pair


def pair(source: str, target: str, where: str) -> Pair | None:
    """The pair of two texts, None where both are blank. UserError, which says where, for one of which a side is blank."""
    blank = [not side.strip() for side in (source, target)]
    if all(blank):
        return None
    if any(blank):
        raise UserError(f"{where} has a {'target without a source' if blank[0] else 'source without a target'}: complete the pair or "
                        "remove both of its sides")
    return Pair(source, target)


def texts(documents: Iterable[Document]) -> Iterator[str]:
    """Every text of the documents, both sides of a pair."""
    for document in documents:
        if isinstance(document, Pair):
            yield from document
        else:
            yield document


def content(document: Document) -> bytes:
    """The document as bytes, different for different documents."""
    if isinstance(document, str):
        return document.encode()
    source, target = (side.encode() for side in document)
    return len(source).to_bytes(8, "little") + source + target


def sizes(document: Document) -> tuple[int, int]:
    """UTF-8 bytes (of all of a document, of what of it is predicted: all of a text, the target of a pair)."""
    if isinstance(document, str):
        return (len(document.encode()),) * 2
    source, target = (len(side.encode()) for side in document)
    return source + target, target
