# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Signals to a run: noted between steps, obeyed elsewhere, a second Ctrl-C at once, and everything as before afterwards."""
import os
import signal

import pytest

from jaxlm.training.stop import Interrupted, Stop


def test_between_steps_a_signal_waits(capsys):
    """Fails if it is obeyed at once (`self._noted = False` in between_steps) or forgotten (drop the last lines there)."""
    with Stop() as stop:
        with pytest.raises(Interrupted) as caught, stop.between_steps():
            assert stop.asked() == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked() == signal.SIGTERM
        assert caught.value.code == 143
    assert "there is no checkpoint yet" in capsys.readouterr().err


def test_elsewhere_a_signal_is_obeyed(tmp_path, capsys):
    """Fails if the newest checkpoint is chosen by its name: `max(p.name ...)`."""
    for name in ("9", "10", "11.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    with Stop(tmp_path), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")
    assert "SIGINT: stopped where there was nothing to save; the newest checkpoint is of step 10. Run" in capsys.readouterr().err


def test_a_second_interrupt_does_not_wait():
    """Fails if a run that does not come to its next step cannot be stopped by Ctrl-C: drop the raise from Stop._handle."""
    with pytest.raises(KeyboardInterrupt), Stop() as stop, stop.between_steps():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Stop():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
