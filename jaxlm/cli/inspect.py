# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm inspect --config=PAGE [--devices=N]: parameters, axes, shardings, bytes and FLOPs, without training or accelerators."""
import jax
import numpy as np
from absl import flags
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.cli import experiment
from jaxlm.cli import flags as command_line
from jaxlm.core import tree
from jaxlm.core.log import count, size
from jaxlm.core.types import Vocabulary
from jaxlm.data import corpus
from jaxlm.optim import optimizers, schedules
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import flops, state, step

FLAGS = flags.FLAGS
flags.DEFINE_integer("devices", 0, "Devices to plan for; they need not exist. 0 = those that are here.")


def main(config: ConfigDict) -> None:
    devices = FLAGS.devices or jax.device_count()
    build.validate(config, devices)
    if config.model.vocab_size == 0:
        # The tokenizer may not be trained yet; its configured size is what the model will get.
        config.model.vocab_size = getattr(config.tokenizer, "vocab_size", 0) or build.build(config, "tokenizer", None).vocab_size
    sizes = mesh.sizes(build.section(config, "mesh"), devices)
    layout = place.Layout(AbstractMesh(tuple(sizes.values()), tuple(sizes)), build.layout_rules(config))
    model = build.build(config, "model")
    optimizer = build.section(config, "optimizer")
    trainable = optimizers.trainable(optimizer, model.abstract)
    schedule = schedules.build(build.section(config, "schedule"), optimizer.lr, config.train.steps)
    tx = optimizers.build(optimizer, schedule, model.abstract, model.axes())
    target = state.abstract(model, tx, trainable, layout, experiment.carried_rows(config))

    parameters = tree.flatten(target.params)
    axes = tree.flatten_axes(model.axes())
    width = max(map(len, parameters))
    print(f"{'parameter':{width}}  {'shape':20} {'logical axes':36} {'split over':24} bytes/device")
    for path, leaf in parameters.items():
        split = ", ".join("*".join(names) or "-" for names in rules.entries(leaf.sharding.spec))
        print(f"{path:{width}}  {str(tuple(leaf.shape)):20} {', '.join(map(str, axes[path])):36} {split:24} "
              f"{state.bytes_per_device(leaf):,}")

    # Sizes alone matter here: any tokens may be the special ones.
    none = np.zeros(config.model.vocab_size, bool)
    objective = build.build(config, "objective", Vocabulary(len(none), 0, (0,), pad=0, cls=0, sep=0, mask=0, continues=none,
                                                            sentinels=tuple(range(len(none)))))
    batch = objective.prepare(corpus.blank(build.section(config, "data"), build.section(config, "objective")), np.random.default_rng)
    per_token = flops.count(lambda p, b: step.Loss(model, objective)(p, b, None)[0], model.abstract, batch) / config.data.seq_len
    learned = tree.partition(target.params, trainable)[0]
    gradients = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32, sharding=x.sharding), learned)
    print(f"\nparameters       {tree.size(target.params):,} ({count(tree.size(target.params))}), trainable {tree.size(learned):,}")
    if config.model.get("experts", 0):
        used = flops.active(target.params, model.axes(), config.model.experts_per_token)
        print(f"active           {used:,} ({count(used)}) a token, by {config.model.experts_per_token} of {config.model.experts} experts")
    print(f"mesh             {' x '.join(f'{k}={v}' for k, v in sizes.items())} = {devices} devices, rules {config.rules}")
    print(f"bytes/device     parameters {size(state.bytes_per_device(target.params))}, "
          f"optimizer state {size(state.bytes_per_device(target.opt_state))}, "
          + (f"carried state {size(state.bytes_per_device(target.carry))}, " if target.carry is not None else "")
          + f"float32 gradients {size(state.bytes_per_device(gradients))} (activations not counted)")
    print(f"FLOPs/token      forward {count(per_token)}, training {count(3 * per_token)} "
          f"at {config.data.seq_len} tokens (matrix products, attention counted whole)")
    tokens = config.train.batch_size * config.data.seq_len
    print(f"update           {tokens:,} tokens, {count(3 * per_token * tokens)} FLOPs; run: {config.train.steps:,} updates, "
          f"{count(config.train.steps * tokens)} tokens, {count(3 * per_token * tokens * config.train.steps)} FLOPs")


if __name__ == "__main__":
    command_line.run(main)
