# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the compiler makes of the training step under each rule: what crosses devices and why, how often it is compiled, what it keeps."""
import collections
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from jaxlm import build
from jaxlm.models import llama, lstm, t5, transformer
from jaxlm.parallel import compiler, place, rules
from jaxlm.training import state as states
from jaxlm.training import step as steps
from tests import families
from tests.test_equivalence import layout_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
# No size of a weight is one of positions or of rows x positions, whole or in parts: a shape says what it is.
ROWS, LENGTH, VOCAB, EMBED, MLP = 16, 24, 128, 64, 160
TOKENS = {LENGTH, LENGTH // 2, *(ROWS * LENGTH // parts for parts in (1, 2, 4, 8))}
SOURCE = 28
TOKENS |= {SOURCE, SOURCE // 2, *(ROWS * SOURCE // parts for parts in (1, 2, 4, 8))}
SIZES = {"vocab_size": VOCAB, "layers": 2, "embed": EMBED}
ATTENDING = {**SIZES, "heads": 4, "mlp": MLP}
MODELS = {
    "llama": llama.Config(**ATTENDING, kv_heads=2),
    # The same with experts: 4, of which each token uses 2, split in two or four.
    "llama_moe": llama.Config(**ATTENDING, kv_heads=2, experts=4, experts_per_token=2),
    "lstm": lstm.Config(**SIZES),
    "t5": t5.Config(**ATTENDING, head_dim=16),
    "transformer": transformer.Config(**ATTENDING, max_len=32),
}
RULES = {"llama_moe": ("dp", "fsdp", "fsdp_tp")}
CASES = [(family, rule) for family in MODELS for rule in RULES.get(family, rules.RULES)]
# Of the other families one case in every run, the rest in slow ones.
QUICK = [case for case in CASES if case[0] == "llama"] + [("llama_moe", "fsdp_tp"), ("lstm", "fsdp"), ("t5", "dp"), ("transformer", "fsdp_seq")]
EVERY = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
COLLECTIVE = re.compile(r"\s*(?:ROOT )?%?\S+ = (.+?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")

# Per device and step, (what moves, what for, where): arrays, however the compiler bundles them. Q, K, V, O, gate, up
# and down are the 7 matrices of a layer; lookup table and head lie outside the loop.
WEIGHTS = {("all-gather", "weight", "forward"): 7, ("all-gather", "weight", "backward"): 7, ("all-gather", "weight", "outside"): 2}
LLAMA = {
    # Every device computes its rows with all parameters: gradients are summed, and nothing else of size.
    "dp": {("all-reduce", "weight", "backward"): 7, ("all-reduce", "weight", "outside"): 2},
    # Each weight is gathered to be used, and again for its gradient. That is summed within fsdp and across data: for
    # the head and the matrices these are two sums (one reduce-scatter and one of parts, where the backend makes them).
    "fsdp": {**WEIGHTS, ("all-reduce", "weight", "backward"): 14, ("all-reduce", "weight", "outside"): 3},
    # The same, and in each layer keys and values are gathered over seq, their gradients summed; segments once a step.
    "fsdp_seq": {**WEIGHTS, ("all-reduce", "weight", "backward"): 14, ("all-reduce", "weight", "outside"): 4,
                 ("all-gather", "activation", "forward"): 2, ("all-reduce", "activation", "backward"): 2,
                 ("all-gather", "activation", "outside"): 1},
    # No weight moves. What two halves of a layer's heads or hidden features add to the residual stream is summed (2), and
    # so is what they hand back (q, k, v, gate, up: 5; GPU and TPU add before they sum). Outside: the lookup, and
    # of the head the features' gradient, the largest logit, the normaliser, the target's logit, the rank test.
    "tp": {("all-reduce", "weight", "backward"): 7, ("all-reduce", "weight", "outside"): 2,
           ("all-reduce", "activation", "forward"): 2, ("all-reduce", "activation", "backward"): 5,
           ("all-reduce", "activation", "outside"): 6},
    # Both.
    "fsdp_tp": {**WEIGHTS, ("all-reduce", "weight", "backward"): 14, ("all-reduce", "weight", "outside"): 3,
                ("all-reduce", "activation", "forward"): 2, ("all-reduce", "activation", "backward"): 5,
                ("all-reduce", "activation", "outside"): 6},
}
# The tokens of devices that hold other experts are gathered, with their weights and choices (3), and what comes of them is
# added and handed back (1); the same for the gradient of the output (1), of tokens and of weights (2). The router is one matrix
# more in a layer. No logits, choices or rows of tokens move otherwise.
EXCHANGE = {("all-gather", "activation", "forward"): 3, ("reduce-scatter", "activation", "forward"): 1,
            ("all-gather", "activation", "backward"): 1, ("reduce-scatter", "activation", "backward"): 2}
# Matrices of experts are gathered like all others, and their gradients scattered (3), which nobody else has parts of.
EXPERTS = {**WEIGHTS, **EXCHANGE, ("all-gather", "weight", "forward"): 8, ("all-gather", "weight", "backward"): 8,
           ("reduce-scatter", "weight", "backward"): 3, ("all-reduce", "weight", "outside"): 3}
# A layer of the encoder has 6 matrices, one of the decoder 10; the table is tied: gathered once, its gradient comes of three
# uses, the lookups of source and target and the head. Each attention that looks at split positions gathers keys and values.
SOURCED = {
    "dp": {("all-reduce", "weight", "backward"): 16, ("all-reduce", "weight", "outside"): 3},
    "fsdp": {("all-gather", "weight", "forward"): 16, ("all-gather", "weight", "backward"): 16, ("all-gather", "weight", "outside"): 1,
             ("all-reduce", "weight", "backward"): 32, ("all-reduce", "weight", "outside"): 4},
    # Segments of both sides, once for what reads itself and once for what reads the other.
    "fsdp_seq": {("all-gather", "weight", "forward"): 16, ("all-gather", "weight", "backward"): 16, ("all-gather", "weight", "outside"): 1,
                 ("all-reduce", "weight", "backward"): 32, ("all-reduce", "weight", "outside"): 6,
                 ("all-gather", "activation", "forward"): 6, ("all-reduce", "activation", "backward"): 6,
                 ("all-gather", "activation", "outside"): 3},
    # Summed into the stream: 2 of a layer of the encoder, 3 of the decoder; handed back: q, k, v of each attention, and up.
    "tp": {("all-reduce", "weight", "backward"): 16, ("all-reduce", "weight", "outside"): 3,
           ("all-reduce", "activation", "forward"): 5, ("all-reduce", "activation", "backward"): 11,
           ("all-reduce", "activation", "outside"): 7},
    "fsdp_tp": {("all-gather", "weight", "forward"): 16, ("all-gather", "weight", "backward"): 16, ("all-gather", "weight", "outside"): 1,
                ("all-reduce", "weight", "backward"): 32, ("all-reduce", "weight", "outside"): 4,
                ("all-reduce", "activation", "forward"): 5, ("all-reduce", "activation", "backward"): 11,
                ("all-reduce", "activation", "outside"): 7},
}
EXPECTED = {
    **{("llama", rule): counts for rule, counts in LLAMA.items()},
    ("llama_moe", "dp"): {**EXCHANGE, ("all-reduce", "weight", "backward"): 8, ("all-reduce", "weight", "outside"): 2},
    ("llama_moe", "fsdp"): {**EXPERTS, ("all-reduce", "weight", "backward"): 10},
    # The router's gradient, of 256 numbers, is handed from device to device once: split otherwise than it was summed.
    ("llama_moe", "fsdp_tp"): {**EXPERTS, ("all-reduce", "weight", "backward"): 9, ("collective-permute", "weight", "backward"): 1,
                               ("all-reduce", "activation", "forward"): 2, ("all-reduce", "activation", "backward"): 5,
                               ("all-reduce", "activation", "outside"): 6},
    # A layer has 2 matrices. That of the state is gathered once and not in each step, and kept for the steps back, and its
    # gradient is one product over all steps.
    ("lstm", "dp"): {("all-reduce", "weight", "backward"): 2, ("all-reduce", "weight", "outside"): 2},
    ("lstm", "fsdp"): {("all-gather", "weight", "forward"): 2, ("all-gather", "weight", "backward"): 1, ("all-gather", "weight", "outside"): 1,
                       ("all-reduce", "weight", "backward"): 4, ("all-reduce", "weight", "outside"): 3},
    # A state needs the one before it: what goes into the steps is gathered over positions, its gradient comes back in parts.
    ("lstm", "fsdp_seq"): {("all-gather", "weight", "forward"): 2, ("all-gather", "weight", "backward"): 1, ("all-gather", "weight", "outside"): 1,
                           ("all-reduce", "weight", "backward"): 5, ("all-reduce", "weight", "outside"): 4,
                           ("collective-permute", "weight", "backward"): 1, ("all-gather", "activation", "forward"): 1,
                           ("all-gather", "activation", "backward"): 1, ("all-gather", "activation", "outside"): 1},
    # No weight moves and no gate: of each step h is gathered, to meet all features and to be handed on (2), and its gradient (1). What goes
    # into the steps hands back the stream's gradient, summed; all steps' h meet the gradients of the gates' features.
    ("lstm", "tp"): {("all-gather", "weight", "forward"): 2, ("all-gather", "weight", "backward"): 1, ("all-reduce", "weight", "backward"): 4,
                     ("all-gather", "activation", "backward"): 1, ("all-reduce", "activation", "backward"): 1,
                     ("all-reduce", "activation", "outside"): 6, ("all-reduce", "weight", "outside"): 2},
    ("lstm", "fsdp_tp"): {("all-gather", "weight", "forward"): 4, ("all-gather", "weight", "backward"): 2, ("all-reduce", "weight", "backward"): 6,
                          ("all-gather", "activation", "backward"): 1, ("all-reduce", "activation", "backward"): 1,
                          ("all-gather", "weight", "outside"): 1, ("all-reduce", "activation", "outside"): 6, ("all-reduce", "weight", "outside"): 3},
    **{("transformer", rule): counts for rule, counts in SOURCED.items()},
    # Keys, queries and values have biases, one number a feature of a head, whose gradients are summed over rows and positions (9, twice).
    ("transformer", "fsdp_seq"): {**SOURCED["fsdp_seq"], ("all-reduce", "weight", "backward"): 50},
    # The tables of distances of both sides, once a step and in no layer.
    **{("t5", rule): {**counts, ("all-reduce", "weight", "outside"): counts["all-reduce", "weight", "outside"] + (4 if rule == "fsdp_seq" else 2)}
       for rule, counts in SOURCED.items()},
}
if jax.__version_info__ >= (0, 12):
    # One gather of a step back has no name there, by which it would be told from those outside.
    for nameless in (("lstm", "tp"), ("lstm", "fsdp_tp")):
        moved = collections.Counter({("all-gather", "weight", "backward"): -1, ("all-gather", "weight", "outside"): 1})
        EXPECTED[nameless] = {key: count for key in {**EXPECTED[nameless], **moved} if (count := EXPECTED[nameless].get(key, 0) + moved[key])}

# The loss in three chunks: nothing of the table's size moves in a chunk. Its gradient is scattered within fsdp and then summed across
# data (with fsdp_seq, seq). What halves of the vocabulary hand back to a chunk's features is summed in each (it has no size of
# positions here), and outside only the lookup.
CHUNKED = {
    "dp": LLAMA["dp"],
    "fsdp_seq": {**LLAMA["fsdp_seq"], ("reduce-scatter", "weight", "outside"): 1, ("all-reduce", "weight", "outside"): 3},
    "fsdp_tp": {**LLAMA["fsdp_tp"], ("reduce-scatter", "weight", "outside"): 1, ("all-reduce", "weight", "outside"): 2,
                ("all-reduce", "weight", "backward"): 15, ("all-reduce", "activation", "outside"): 1},
}


def collectives(text: str) -> dict[str, int]:
    """'kind weight|activation forward|backward|outside' -> how many arrays; sums of single vectors and numbers left out."""
    found = collections.Counter()
    for line in text.splitlines():
        op = COLLECTIVE.match(line)
        if op is None:
            continue
        name = re.search(r'op_name="([^"]*)"', line)
        name = name[1] if name else ""
        where = "outside" if "while/body" not in name else "backward" if "transpose(jvp" in name else "forward"
        for sizes in re.findall(r"\w+\[([\d,]*)\]", op[1]):
            shape = [int(n) for n in sizes.split(",") if n and n != "1"]
            what = "activation" if TOKENS & set(shape) else "weight"
            if what == "activation" or len(shape) > 1:
                found[f"{op[2]} {what} {where}"] += 1
    return dict(found)


def measure(family: str, rule: str, chunks: int = 1, micro_batches: int = 1) -> dict:
    """Compile the training step of a family under a rule, run it twice, and tell what was seen; chunks are the loss's."""
    config, layout = MODELS[family], layout_of(rule, family)
    model = sys.modules[type(config).__module__].build(config)
    objective = build.find("objective", "causal_lm")
    tx, trainable = optax.adamw(1e-3), jax.tree.map(lambda _: True, model.abstract)
    compiled = []
    with place.use(layout):
        target = states.abstract(model, tx, trainable, layout)
        state = states.initialise(model, tx, trainable, 0, target)
        rows = np.random.default_rng(0).integers(1, VOCAB, (ROWS, LENGTH)).astype(np.int32)
        ids = np.ones_like(rows)
        host = {"tokens": rows, "targets": rows, "segments": ids, "positions": np.cumsum(ids, 1, np.int32) - 1,
                "weights": ids.astype(np.float32)}
        if families.reads_source(family):
            read = np.resize(rows, (ROWS, SOURCE))
            host |= {"source_tokens": read, "source_segments": np.ones_like(read), "source_positions": np.cumsum(np.ones_like(read), 1, np.int32) - 1}
        batch = place.put(host, layout, ROWS)
        step = steps.make_step(model, objective.build(objective.Config(chunks=chunks)), tx, optax.constant_schedule(1e-3), trainable,
                               micro_batches)
        with compiler.tracing_for(compiler.options()):
            pass  # the trial products that these compile, once in a process, are none of the step's
        note = lambda event, duration, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
        jax.monitoring.register_event_duration_secs_listener(note)
        program = steps.compile_step(step, target, batch, layout.replicated)
        for _ in range(2):
            old = state
            state, metrics = program(state, batch)
        jax.block_until_ready(metrics)
        count = len(compiled)
    return {
        "collectives": collectives(program.as_text()),
        "products": sorted({int(m[1]) for m in re.finditer(r"= \w+\[(\d+),\d+\]\S* dot\(", program.as_text())}),
        "compilations": count,
        "kept": program.memory_analysis().alias_size_in_bytes,
        "state": states.bytes_per_device(target),
        "given": all(x.is_deleted() for x in jax.tree.leaves(old)),
        "steps": int(state.step),
    }


def main(quick: bool) -> None:
    """A line of JSON for each case; what the compiler complains of goes to standard error under the case's name."""
    cases = [case for case in CASES if (case in QUICK) == quick]
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_compilation_cache", False)  # a program from the cache brings no warnings
    for family, rule in cases:
        print(f"case: {family} {rule}", file=sys.stderr, flush=True)
        print(json.dumps({"case": f"{family} {rule}", **measure(family, rule)}), flush=True)
    for rule in CHUNKED if quick else ():
        print(f"case: chunked {rule}", file=sys.stderr, flush=True)
        print(json.dumps({"case": f"chunked {rule}", **measure("llama", rule, chunks=3)}), flush=True)
    if quick:
        print(json.dumps({"case": "accumulated dp", **measure("llama", "dp", micro_batches=2)}), flush=True)


@functools.cache
def reports(quick: bool) -> dict[str, dict]:
    """`main` in a process of its own: the compiler speaks on standard error, which conftest quiets here."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "0"}
    run = subprocess.run([sys.executable, "-c", f"from tests.parallel import test_collectives as t; t.main({quick})"], cwd=ROOT,
                         env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    out = {line["case"]: line for line in map(json.loads, run.stdout.splitlines())}
    for part in run.stderr.split("case: ")[1:]:
        out[part.partition("\n")[0]]["stderr"] = part
    return out


def report(family: str, rule: str) -> dict:
    return reports(family in ("chunked", "accumulated") or (family, rule) in QUICK)[f"{family} {rule}"]


@pytest.mark.parametrize("family,rule", EVERY)
def test_what_crosses_devices(family, rule):
    """Fails if attention gathers its input instead of keys and values (constrain `source` to whole positions), or
    cross_entropy merges split rows and positions (flat=True), or "act_mlp" is not split in _TENSOR_ACTS, or gathered
    matrices of experts are kept (`kept` in layers/moe.py without "all_gather" or "pvary"), or the table of distances has one copy
    for all devices (`parts = 1` in place.copies), or gates are merged with their split features (`flat()` in linear.product)."""
    found = {tuple(key.split()): count for key, count in report(family, rule)["collectives"].items()}
    assert found == EXPECTED[family, rule]


@pytest.mark.parametrize("rule", CHUNKED)
def test_chunks_of_the_loss_send_no_more(rule):
    """Fails if the gradient of the table is summed over devices in every chunk: own=None in objectives/causal_lm.py."""
    seen = report("chunked", rule)
    assert {tuple(key.split()): count for key, count in seen["collectives"].items()} == CHUNKED[rule]
    assert "Involuntary full rematerialization" not in seen["stderr"]


def test_micro_batches_send_no_more():
    """Gradients are summed over devices once a step, those of the loop's layers with the others. Fails if each micro-batch sends its own,
    and each layer of it: `return compute(whole, rows)` first in place.sum_of_parts."""
    found = {tuple(key.split()): count for key, count in report("accumulated", "dp")["collectives"].items()}
    norms = 2  # of all layers, stacked
    assert found == {("all-reduce", "weight", "outside"): sum(LLAMA["dp"].values()) + norms}


def test_split_positions_are_computed_where_they_are():
    """Keys and values are computed of a device's own positions, and gathered then. Fails if every device computes those of all
    positions: constrain in the place of place.move, in attention's _everywhere."""
    own = ROWS * LENGTH // 8
    assert own in report("llama", "fsdp_seq")["products"] and 2 * own not in report("llama", "fsdp_seq")["products"]


@pytest.mark.parametrize("family,rule", EVERY)
def test_nothing_is_replicated_to_be_moved(family, rule):
    """Fails if Embed drops its constraint on the rows of the table."""
    assert "Involuntary full rematerialization" not in report(family, rule)["stderr"]


@pytest.mark.parametrize("family,rule", EVERY)
def test_one_compilation(family, rule):
    """Fails if the state comes out as another type or layout than it went in: `state.step + 1.0` in make_step."""
    assert report(family, rule)["compilations"] == 1 and report(family, rule)["steps"] == 2


@pytest.mark.parametrize("family,rule", EVERY)
def test_the_state_is_updated_in_place(family, rule):
    """Fails if compile_step does not donate the state: drop donate_argnums."""
    seen = report(family, rule)
    assert seen["given"] and seen["kept"] >= seen["state"], seen
