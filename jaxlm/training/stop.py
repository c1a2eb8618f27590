# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What SIGTERM and SIGINT do to a run: between steps it saves and stops; elsewhere it stops at once. Either way it says how to go on."""
import contextlib
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from jaxlm.parallel import processes

# Python handles a signal between two of its own instructions; compiling a large model is one of minutes.
PATIENCE = 5.0


class Interrupted(SystemExit):
    """A signal asked the run to stop, and nothing that it has done is lost."""


class Stop:
    """SIGTERM and SIGINT while this context is open, in the main thread; elsewhere signals stay as they are.

    Within `between_steps` a signal is noted and has to be asked for: the loop saves and raises Interrupted; a second
    SIGINT interrupts at once. Anywhere else there is nothing to save, and Interrupted is raised where the program is, or
    the process ends where Python cannot be reached for PATIENCE seconds.
    Of several processes, one that gets a signal between steps stops all after the same step.
    checkpoints: the run's folder of them, to say what the run will go on from.
    """

    def __init__(self, checkpoints: pathlib.Path | None = None):
        self._checkpoints = checkpoints
        self._signal = self._asked = 0
        self._noted = self._agreed = self._reached = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        # Only the main thread may set handlers; not so in a notebook's thread or a test.
        if threading.current_thread() is threading.main_thread():
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
            self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._old:
            signal.set_wakeup_fd(self._old_fd)
            for number, handler in self._old.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._writer.close()  # which ends the thread

    @contextlib.contextmanager
    def between_steps(self) -> Iterator[None]:
        """While open, a signal waits until it is asked for; one that was not is obeyed at the end."""
        self._noted = True
        try:
            yield
        finally:
            self._noted = False
        if self._signal:
            self._leave(self._signal)

    def asked(self) -> int:
        """The signal to stop for, or 0. Of several processes each must ask equally often, and all get the same answer."""
        if not processes.several():
            return self._signal
        self._asked += 1
        self._agreed = processes.stop_agreed(self._asked) or self._agreed
        return (self._signal or signal.SIGTERM) if self._agreed else 0

    def _handle(self, number: int, frame: Any) -> None:
        self._reached = True
        if not self._noted:
            self._leave(number)
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        processes.stop_all()

    def _watch(self) -> None:
        """On a thread: every signal, at once."""
        while byte := self._reader.recv(1):
            if byte[0] in self._old and not self._noted:
                time.sleep(PATIENCE)
                if not self._reached:
                    self._tell(byte[0])
                    os._exit(128 + byte[0])
        self._reader.close()

    def _leave(self, number: int) -> None:
        self._tell(number)
        if processes.several():
            processes.leave(128 + number, told=True)
        raise Interrupted(128 + number)

    def _tell(self, number: int) -> None:
        """Said by every process: `say` is silent in all but the first."""
        steps = [int(p.name) for p in self._checkpoints.glob("*") if p.name.isdigit()] if self._checkpoints else []
        newest = f"the newest checkpoint is of step {max(steps)}. Run the same command again to go on." if steps else \
            "there is no checkpoint yet. Run the same command again to begin anew."
        print(f"{signal.Signals(number).name}: stopped where there was nothing to save; {newest}", file=sys.stderr, flush=True)
