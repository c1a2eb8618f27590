# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The compiled training step on a CPU: every matrix product is a library's. No timing, but what a timing would suffer from.

In a process of its own, because tests run with compiler flags that a user's training does not have.
"""
import functools
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm import build
from jaxlm.core import tree
from jaxlm.models import bert, gpt, llama, t5
from jaxlm.ops import activations, dense
from jaxlm.ops.loss import cross_entropy
from jaxlm.parallel import compiler, mesh, place, rules
from jaxlm.training import state as states
from jaxlm.training import step as steps
from tests import families

LAYERS, ROWS, LENGTH, VOCAB = 2, 8, 128, 512  # a product of fewer numbers is not worth a library call, and gets none
MODELS = {
    "gpt": lambda dtype: gpt.build(gpt.Config(vocab_size=VOCAB, max_len=LENGTH, layers=LAYERS, heads=4, embed=256, dtype=dtype, scan=False)),
    "llama": lambda dtype: llama.build(llama.Config(vocab_size=VOCAB, layers=LAYERS, heads=4, kv_heads=2, embed=256, mlp=512, dtype=dtype,
                                                    scan=False)),
    # With dropout, and the second with a learned bias of its scores.
    "bert": lambda dtype: bert.build(bert.Config(vocab_size=VOCAB, max_len=LENGTH, layers=LAYERS, heads=4, embed=256, dtype=dtype, scan=False,
                                                 pooler=False, pair_head=False)),
    "t5": lambda dtype: t5.build(t5.Config(vocab_size=VOCAB, layers=LAYERS, heads=4, embed=256, mlp=1024, dtype=dtype, scan=False)),
}
# Of a layer: attentions, and the products of both, q, k and v as one: q, k and v, the output, two of attention and two of the
# feed-forward; of a layer that looks at a source q, keys and values, the output and two more. And products behind the layers.
ATTENTIONS = {"t5": 3}
PRODUCTS = {"t5": 6 + 11}
BEHIND = {"bert": 2}
# XLA:CPU's names for products that a library computes: calls, and fusions that it gets whole.
ONEDNN, YNNPACK = "xla_cpu_experimental_onednn_custom_call", "xla_cpu_experimental_ynn_fusion_type"
CALL = r"custom-call\(.*custom_call_target=\"__onednn\$matmul\""
LIBRARIES = ("__onednn$", "__ynn_fusion", "__xnn_fusion")


def operations(text: str, pattern: str, taken: bool) -> list[str]:
    """The lines of a compiled program that the pattern is found in, of what libraries compute or of all else."""
    libraries = {name for line in text.splitlines() if any(library in line for library in LIBRARIES)
                 for name in re.findall(r"calls=%?([\w.\-]+)", line)}
    out, inside = [], ""
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            inside = head[1]
        elif re.search(pattern, line) and (inside in libraries) == taken:
            out.append(line.strip()[:400])
    return out


def loose_products(text: str) -> list[str]:
    """The dots that no library computes: the compiler's own loops run them, 3 to 30 times slower."""
    return operations(text, r"= \S+ dot\(", taken=False)


def hidden_rows(text: str) -> list[str]:
    """Exponentials of logits that a library makes on the way to their sum, and keeps in memory of its own."""
    return operations(text, rf"= f32\[{ROWS * LENGTH},\d+\]\S* exponential\(", taken=True)


def wide_calls(text: str) -> list[bool]:
    """Of each of oneDNN's products with a float32 result, whether its operands are bfloat16."""
    types = dict(re.findall(r"%?([\w.\-]+) = \(?(\w+)\[", text))
    found = re.findall(r"= \(?f32[^=\n]*?custom-call\(([^)]*)\), custom_call_target=\"__onednn\$matmul\"", text)
    return [all(types[name] == "bf16" for name in re.findall(r"%([\w.\-]+)", operands)[:2]) for operands in found]


def measure(family: str, dtype: str) -> dict:
    model = MODELS[family](dtype)
    layout = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    tx, trainable = optax.adamw(1e-3), jax.tree.map(lambda _: True, model.abstract)
    objective = build.find("objective", "causal_lm")
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), np.int32, sharding=place.batch_sharding(layout, 2))
    weights = jax.ShapeDtypeStruct((ROWS, LENGTH), np.float32, sharding=ids.sharding)
    batch = {"tokens": ids, "targets": ids, "segments": ids, "positions": ids, "weights": weights}
    if family == "t5":
        batch |= {f"source_{name}": ids for name in ("tokens", "segments", "positions")}
    with place.use(layout):
        target = states.abstract(model, tx, trainable, layout)
        made = steps.make_step(model, objective.build(objective.Config()), tx, optax.constant_schedule(1e-3), trainable)
        options = compiler.options(bfloat16=dtype == "bfloat16")
        program = steps.compile_step(made, target, batch, layout.replicated, options)
        text, memory = program.as_text(), program.memory_analysis()
        state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(target))
        return {"family": family, "dtype": dtype, "options": options, "loose": loose_products(text), "hidden": hidden_rows(text),
                "state": state, "donated": memory.alias_size_in_bytes, "working": memory.temp_size_in_bytes,
                "calls": len(re.findall(CALL, text)), "wide": wide_calls(text)}


SMALL = dict(vocab_size=VOCAB, layers=LAYERS, heads=4, embed=256, scan=False)
# Every activation, every head, experts, and what stands between a product and its use: soft caps, norms of queries and keys.
VALUES = {
    **{f"gpt {name}": lambda name=name: gpt.build(gpt.Config(**SMALL, max_len=LENGTH, activation=name)) for name in activations.ACTIVATIONS},
    "llama": lambda: MODELS["llama"]("float32"),
    "llama caps": lambda: llama.build(llama.Config(**SMALL, kv_heads=2, mlp=512, activation="gelu_tanh", attention_soft_cap=5.0,
                                                   logit_soft_cap=8.0, qk_norm=True, sandwich=True)),
    "llama experts": lambda: llama.build(llama.Config(**SMALL, kv_heads=2, mlp=256, experts=2, experts_per_token=1, router_z=0.1)),
    "bert": lambda: bert.build(bert.Config(**SMALL, max_len=LENGTH, embed_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
                                           discriminator=True)),
}

# The ones where the options choose no library; and compiled, where they do, under those of heavy float32 programs too, in which
# two libraries share the products.
PLAIN = ("gpt gelu_tanh", "llama")


def differences(family: str) -> dict:
    """The largest difference of a gradient under the table's options from that under none, as a share of the largest gradient."""
    model = VALUES[family]()
    layout = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    tokens = np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    params = families.params_of(model)

    def total(params, batch):
        """Of everything that a model gives, each number with a weight of its own."""
        out = model.apply(params, batch)
        given = [out.logits, *jax.tree.leaves(out.head)]
        weighed = (jnp.sum(x * jax.random.normal(jax.random.key(i), x.shape)) for i, x in enumerate(given))
        return sum(weighed) + sum(mean.value for mean in out.aux.values())

    with place.use(layout):
        batch = place.put({"tokens": tokens}, layout, ROWS)
        lowered = jax.jit(jax.grad(total)).lower(params, batch)
        heavy = compiler.options(bfloat16=False, flops=compiler.HEAVY)
        plain, *chosen = (tree.flatten(jax.device_get(lowered.compile(compiler_options=o)(params, batch)))
                          for o in ({}, compiler.options(), *([heavy] if family in PLAIN else [])))
    largest = max(np.abs(g).max() for g in plain.values())
    return {"family": family, "dtype": "values",
            **{path: max(float(np.abs(c[path] - g).max() / largest) for c in chosen) for path, g in plain.items()}}


# Operands of products with a float32 result, and the factor: what XLA gives to oneDNN, at its threshold of operations, and below.
WIDE = {"large": ((130, 72), (1001, 72), 1.0), "scaled": ((130, 72), (1001, 72), 0.3), "at the threshold": ((128, 128), (512, 128), 1.0),
        "below": ((127, 128), (512, 128), 1.0), "small": ((8, 8), (8, 8), 2.0), "batched": ((2, 3, 65, 40), (2, 3, 67, 40), 0.125),
        "batched, below": ((2, 3, 8, 8), (2, 3, 8, 8), 1.0)}


IDS = 1027  # of the table of that loss, which is made 1536 long


def wide_errors() -> dict:
    """The largest difference of `dense.wide` from float64 arithmetic, as a share of the largest number; and the same of a loss whose
    logits it makes from the plain form, and of the loss's gradients."""
    random, options, out = np.random.default_rng(0), compiler.options(), {}
    with compiler.tracing_for(options):
        for name, (one, two, scale) in WIDE.items():
            a, b = (random.standard_normal(shape).astype(jnp.bfloat16) for shape in (one, two))
            lead = tuple(range(len(one) - 2))
            numbers = ((len(one) - 1,), (len(one) - 1,)), (lead, lead)
            run = jax.jit(lambda a, b, n=numbers, s=scale: dense.wide(a, b, n, s, compiler.library())).lower(a, b)
            exact = scale * np.matmul(a.astype(np.float64), np.swapaxes(b.astype(np.float64), -1, -2))
            out[name] = float(np.abs(run.compile(compiler_options=options)(a, b) - exact).max() / np.abs(exact).max())
        # Whole numbers: XLA may leave out that a float32 table is rounded to bfloat16.
        hidden, table = (jnp.asarray(random.integers(-3, 4, shape), t) for shape, t in (((2, 68, 128), "bfloat16"), ((IDS, 128), "float32")))
        targets, weights = random.integers(0, IDS, (2, 68)).astype(np.int32), random.random((2, 68)).astype(np.float32)
        loss = lambda form: lambda h, t: cross_entropy(h / 8, t, targets, weights, bias=jnp.arange(float(IDS)) / IDS, form=form)["loss"].value
        programs = [jax.jit(jax.value_and_grad(loss(form), (0, 1))).lower(hidden, table).compile(compiler_options=options)
                    for form in ("flat", "library")]
        made = [program(hidden, table) for program in programs]
        out["columns"] = re.findall(r"= \(?f32\[136,(\d+)\][^=\n]*custom_call_target=\"__onednn\$matmul\"", programs[1].as_text())
    for name, x, y in zip(("loss", "d_hidden", "d_table"), *map(jax.tree.leaves, made), strict=True):
        x, y = (np.asarray(a, np.float64) for a in (x, y))
        out[name] = float(np.abs(x - y).max() / np.abs(x).max())
    return {"family": "wide", "dtype": "values", **out}


def main() -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    for family in MODELS:
        for dtype in ("float32", "bfloat16"):
            print(json.dumps(measure(family, dtype)), flush=True)
    # A processor without AVX-512 can run oneDNN's products, though they are slower there: their numbers are looked at everywhere.
    compiler.OPTIONS["narrow_cpu"] = compiler.OPTIONS["cpu"]
    if ONEDNN in compiler.options():
        print(json.dumps(wide_errors()), flush=True)
    for family in VALUES if ONEDNN in compiler.options() else PLAIN:
        print(json.dumps(differences(family)), flush=True)


@functools.cache
def report() -> dict[tuple[str, str], dict]:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run([sys.executable, "-c", "from tests.training import test_cpu_step as t; t.main()"],
                         env={**environment, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    return {(row["family"], row["dtype"]): row for row in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("family", VALUES)
def test_options_change_roundings_only(family):
    """At sizes at which libraries take over, and with the compiler's own optimisations: tests elsewhere have neither.

    Fails if an option gives other gradients, as oneDNN's do on jaxlib 0.12 without the barrier in layers/linear.py.
    """
    if (family, "values") not in report():
        pytest.skip("no library is chosen by the options of this jaxlib or processor")
    off = {path: x for path, x in report()[family, "values"].items() if not isinstance(x, str) and not x < 1e-5}
    assert not off, off


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", MODELS)
def test_every_product_is_a_librarys(family, dtype):
    """Fails if a product comes out in a form that no library takes, or the options that bring the library are not handed
    on: compile_step with options={}."""
    row = report()[family, dtype]
    if ONEDNN in row["options"]:
        assert row["loose"] == []
        assert row["calls"] >= 3 * (PRODUCTS.get(family, 6) * LAYERS + BEHIND.get(family, 1)), row
    elif row["options"].get(YNNPACK) == "":
        pytest.skip("products are calls of Eigen here, which the program's text does not tell from loops")
    else:  # older jaxlibs' libraries do not take the form of a weight's gradient, rows times rows, nor all of attention's
        beyond = ("lhs_contracting_dims={0}, rhs_contracting_dims={0}", "lhs_batch_dims")
        assert [line for line in row["loose"] if not any(form in line for form in beyond)] == []


@pytest.mark.parametrize("family", MODELS)
def test_bfloat16_products_are_bfloat16(family):
    """Scores and logits are written in float32, and no operand is converted for it.

    Fails if XLA:CPU converts the operands, as it does where a float32 result is asked for: preferred_element_type=jnp.float32 for the
    other products of ops/attention.py, or library=False in dense.wide."""
    row = report()[family, "bfloat16"]
    if ONEDNN not in row["options"]:
        pytest.skip("this jaxlib or processor computes every bfloat16 product in float32")
    count, expected = len(row["wide"]), ATTENTIONS.get(family, 1) * LAYERS + 1
    # With dropout gradients of weights may be among them.
    assert all(row["wide"]) and (count == expected if family in ("gpt", "llama") else count >= expected), row


def test_float32_of_bfloat16_is_exact():
    """Products to 1e-5 of the largest number, where one rounding to bfloat16 is 2e-3; gradients of a loss to that rounding.

    Fails if a factor of 1 is simplified away, and with it float32: `a, 1.0` for the halved a and 2.0 in dense.wide; if the factor is
    applied twice; and if a jaxlib rounds products that it gives to no library. A long table is multiplied by as a multiple of 512 rows:
    fails without the jnp.pad in ops/loss.py, and with `logits` that keep what was added."""
    if ("wide", "values") not in report():
        pytest.skip("this jaxlib or processor computes every bfloat16 product in float32")
    row = report()["wide", "values"]
    assert row["columns"][0] == "1536", row
    assert all(row[name] < 1e-5 for name in (*WIDE, "loss")) and max(row["d_hidden"], row["d_table"]) < 2**-7, row


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", MODELS)
def test_what_a_step_takes_of_memory(family, dtype):
    """The state is updated in place, and of a token a layer keeps 28 numbers of its width (of one on both sides of an encoder-decoder
    56) and three rows of each attention.

    Fails without donate_argnums in compile_step, if what activations are made of is kept (again=False in layers/mlp.py), and if a
    library keeps all exponentials of logits, which `memory_analysis` does not count: without the barrier in ops/vocab.py, in float32.
    """
    row = report()[family, dtype]
    assert row["donated"] == row["state"]
    # jaxlib 0.10, which has no oneDNN, drops the barrier: YNNPACK takes the fold, for which the logits are copied out in parts.
    assert row["hidden"] == [] or ONEDNN not in row["options"], row["hidden"]
    number, tokens = 2 if dtype == "bfloat16" and ONEDNN in row["options"] else 4, ROWS * LENGTH
    attention = 3 * 4 * LENGTH * ATTENTIONS.get(family, 1) // (2 if family in ("gpt", "llama") else 1)  # half of it where causal
    # jax 0.10 keeps what dropout draws.
    layer = {"bert": (28, 30), "t5": (56, 72)}.get(family, (28, 28))[jax.__version_info__ < (0, 12)] * 256 + attention
    assert row["working"] <= number * tokens * LAYERS * layer + 3 * 4 * tokens * VOCAB, row
