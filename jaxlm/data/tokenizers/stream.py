# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Text from ids as they come."""
import codecs
from typing import Any


class Stream:
    """Text from ids as they come: `push(id)` gives what is certain by now, `flush()` the rest.

    A UTF-8 character is never split: its bytes wait until it is whole. The parts joined are `decode` of all ids.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._exact = getattr(tokenizer, "byte_level", True)
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        # Where tokens are text, that of an id depends on those before it (spaces, ##pieces): a short window is decoded
        # twice. Bytes among such tokens are read together, a run of them: one that is not UTF-8 spoils those before it,
        # over special tokens too, which have no text.
        self._waits = {*getattr(tokenizer, "bytes", ()), *tokenizer.special.values(), tokenizer.eot}
        self._ids: list[int] = []
        self._read = 0

    def push(self, token: int) -> str:
        """The text that `token` makes certain, "" where a character is not yet whole."""
        if self._exact:
            return self._bytes.decode(self._tokenizer.decode_bytes([token]))
        self._ids.append(int(token))
        if token in self._waits:
            return ""
        before, now = self._tokenizer.decode(self._ids[:self._read]), self._tokenizer.decode(self._ids)
        if now.endswith("\ufffd") or len(now) <= len(before):
            return ""
        self._ids, self._read = self._ids[self._read:], len(self._ids) - self._read
        return now[len(before):]

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never became whole."""
        if self._exact:
            return self._bytes.decode(b"", final=True)
        before, now = self._tokenizer.decode(self._ids[:self._read]), self._tokenizer.decode(self._ids)
        self._ids, self._read = [], 0
        return now[len(before):]
