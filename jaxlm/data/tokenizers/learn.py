# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the kinds that learn from documents have in common: documents in, one JSON out, and how it is rebuilt."""
import collections
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from jaxlm.core.errors import UserError
from jaxlm.core.log import Progress, say
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer

_BATCH_CHARACTERS = 1 << 20
Documents = Callable[[], Iterator[str]]


def needed(documents: Documents | None, kind: str) -> Documents:
    """`documents`; UserError where there are none."""
    if documents is None:
        raise UserError(f"tokenizer '{kind}' learns from documents and none are given here: use the tokenizer of a "
                        "checkpoint or a tokenizer.json")
    return documents


def batches(documents: Iterable[str], doing: str) -> Iterator[list[str]]:
    """Lists of documents of about a million characters: the library counts the words of one list on all cores.

    UserError at the end where there was no text.
    """
    with Progress(None, doing, "characters", unit_scale=True) as bar:
        batch, size = [], 0
        for text in documents:
            batch.append(text)
            size += len(text)
            if size >= _BATCH_CHARACTERS:
                yield batch
                bar.update(size)
                batch, size = [], 0
        if batch:
            yield batch
            bar.update(size)
        if bar.count == 0:
            raise no_text()


def no_text() -> UserError:
    return UserError("there is no text to train the tokenizer on: look at the source")


def most_frequent(counts: collections.Counter, limit: int) -> list[str]:
    """The `limit` most frequent characters, in the order of their code points; those of one count in that order too."""
    return sorted(sorted(counts, key=lambda c: (-counts[c], c))[:limit])


def say_rare(counts: collections.Counter, kept: list[str], become: str) -> None:
    """Say what becomes of the characters that are not kept."""
    if len(kept) < len(counts):
        lost = 1 - sum(counts[c] for c in kept) / counts.total()
        say(f"tokenizer: the text has {len(counts)} different characters; all but the {len(kept)} most frequent, "
            f"{lost:.2g} of what it has, become {become}: raise tokenizer.alphabet to keep them")


def built(content: dict[str, Any], special: Iterable[str], eot: str, asked: int, lstrip: str | None = None,
          roles: Mapping[str, str] = MappingProxyType({})) -> JsonTokenizer:
    """The tokenizer of a tokenizer.json whose first ids are the `special` tokens; it says where it has fewer than `asked`.

    roles: as of JsonTokenizer. lstrip: the special token that takes the space before it too, for programs that read
    special tokens out of a text.
    """
    added = [{"id": i, "content": name, "single_word": False, "lstrip": name == lstrip, "rstrip": False, "normalized": False,
              "special": True} for i, name in enumerate(special)]
    result = JsonTokenizer(json.dumps({**content, "added_tokens": added}), eot, roles=roles)
    if result.vocab_size < asked:
        say(f"tokenizer: the text gives {result.vocab_size} tokens, fewer than tokenizer.vocab_size={asked}")
    return result


def repeated(names: tuple, own: tuple[str, ...]) -> list[str]:
    """Problems of a list of special tokens that is added to a tokenizer's `own`."""
    every = (*own, *names)
    if all(isinstance(n, str) and n for n in names) and len(set(every)) == len(every):
        return []
    return [f"tokenizer.special_tokens={names} must be non-empty strings without repetition "
            f"({' '.join(own)} {'is' if len(own) == 1 else 'are'} there already)"]
