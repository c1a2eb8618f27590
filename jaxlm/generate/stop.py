# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Stop strings in text that comes in pieces: nothing of one is let through, and nothing else is held back for long."""
from collections.abc import Sequence

from jaxlm.core.errors import UserError


class Stops:
    """`push(piece)` gives the text that is certain to come before any stop string; `found` is set once there is one."""

    def __init__(self, stops: Sequence[str] = ()):
        if not all(stops):
            raise UserError("a stop string of zero length is everywhere: take it out")
        self._stops, self._held, self.found = tuple(stops), "", False

    def push(self, piece: str) -> str:
        """The text before the first stop string; what may be the beginning of one waits. Nothing after one was found."""
        if self.found:
            return ""
        text, self._held = self._held + piece, ""
        # The one that is whole first, so that it does not matter in which pieces the text comes.
        at = [(i + len(stop), i) for stop in self._stops if (i := text.find(stop)) >= 0]
        if at:
            self.found = True
            return text[: min(at)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of text that is a beginning of stop, but not all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
