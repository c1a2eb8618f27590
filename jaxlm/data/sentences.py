# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Documents split into sentences: one a line, as pre-training text is published, or by a simple rule for running text.

A sentence is tokenised by itself, without the white space around it.
"""
import re
from collections.abc import Callable

# The end of a sentence in running text: a blank line; a full stop, question or exclamation mark (with closing quotes
# and brackets) before white space; or the marks of Chinese and Japanese, which no space follows.
# (White space before a blank line is stripped, not matched: a long run of it would be looked through from each of its places.)
_END = re.compile(r"\n[^\S\n]*\n\s*|(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])[」』”’）]*\s*")


def lines(text: str) -> list[str]:
    """The lines of a text that are not blank."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def running(text: str) -> list[str]:
    """The sentences of running text. A mark before a small letter on its line ends none ("e.g. this"); "Mr. Smith" is cut."""
    out, begin = [], 0
    for found in _END.finditer(text):
        following = text[found.end():found.end() + 1]
        if following.islower() and "\n" not in found.group():
            continue
        # Closing quotes and brackets belong to the sentence; the white space behind them to none.
        out.append(text[begin:found.end()].strip())
        begin = found.end()
    out.append(text[begin:].strip())
    return [sentence for sentence in out if sentence]


SPLITTERS: dict[str, Callable[[str], list[str]]] = {"line": lines, "text": running}
