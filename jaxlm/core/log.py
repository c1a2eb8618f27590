# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the user sees while work goes on: plain lines, and one progress bar that turns into lines without a terminal."""
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm


_silent = False


def silence() -> None:
    """From now on nothing is said or shown: another process of the run speaks for all."""
    global _silent
    _silent = True


def say(*words: Any) -> None:
    """A line on standard error, so that standard output stays what the command was asked for."""
    if _silent:
        return
    tqdm.write(" ".join(str(w) for w in words), file=sys.stderr)


class Progress:
    """A bar with an ETA on a terminal; elsewhere a plain line every `every` seconds and at the end.

    `unit_scale` prints 1.2M instead of 1200000. Use as a context manager; `update(n)`, `note(text)`.
    """

    def __init__(self, total: int | None, what: str, unit: str = "it", start: int = 0, every: float = 10.0,
                 unit_scale: bool = False):
        self.total, self.what, self.unit, self.every, self.count, self.start = total, what, unit, every, start, start
        self._note = ""
        self._terminal = sys.stderr.isatty() and not _silent
        self._began = self._last = time.monotonic()
        # A terminal that does not tell its size (some containers' do not) would get no bar at all.
        told = self._terminal and all(os.get_terminal_size(sys.stderr.fileno()))
        shape = {"dynamic_ncols": True} if told else {"ncols": 100, "nrows": 24}
        self._bar = tqdm(total=total, initial=start, desc=what, unit=unit, unit_scale=unit_scale, file=sys.stderr,
                         disable=not self._terminal, leave=True, **shape)

    def update(self, n: int = 1) -> None:
        self.count += n
        self._bar.update(n)
        now = time.monotonic()
        if not self._terminal and not _silent and now - self._last >= self.every:
            self._last = now
            self._line(now)

    def note(self, text: str) -> None:
        """Text behind the bar: the current loss, say."""
        self._note = text
        if self._terminal:
            self._bar.set_postfix_str(text, refresh=False)

    def _line(self, now: float) -> None:
        seconds = now - self._began
        done = self.count - self.start
        line = f"{self.what}: {self.count:,}"
        if self.total:
            line += f" of {self.total:,} {self.unit}"
            if 0 < done and self.count < self.total:
                line += f", {clock(seconds * (self.total - self.count) / done)} left"
        else:
            line += f" {self.unit}"
        print(f"{line}, {clock(seconds)} gone" + (f", {self._note}" if self._note else ""), file=sys.stderr, flush=True)

    def close(self) -> None:
        if not self._terminal and not _silent and time.monotonic() - self._began >= 1.0:
            self._line(time.monotonic())
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def progress(items: Iterable, what: str, total: int | None = None, unit: str = "it") -> Iterator:
    """`items`, with progress shown."""
    with Progress(total if total is not None else getattr(items, "__len__", lambda: None)(), what, unit) as bar:
        for item in items:
            yield item
            bar.update()


def clock(seconds: float) -> str:
    """'1:02:03' or '02:03'."""
    seconds = int(round(seconds))
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"


def count(n: float) -> str:
    """12.3M, 1.24B, 2.43e+20: a number of things in three digits."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if scale <= abs(n) < 1e15:
            return f"{n / scale:.3g}{unit}"
    return f"{n:.3g}"


def size(n: float) -> str:
    """12.3 MB, 1.24 GB: bytes in three digits, powers of ten."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n:.0f} B"
