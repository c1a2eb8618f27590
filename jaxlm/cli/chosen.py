# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""--step, of the commands that read one checkpoint of a run: defined in one place, as several of them may be imported."""
from absl import flags

flags.DEFINE_integer("step", 0, "Checkpoint to use; 0 = the newest.")


def step() -> int:
    return flags.FLAGS.step
