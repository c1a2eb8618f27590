# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Compiler options as data: what is set on each platform, why, and on whose word.

They go with a program when it is compiled (`jit(...).lower().compile(compiler_options=...)`), never into the environment
or the process, so that importing jaxlm changes nothing for others. What this jaxlib does not know is said and left out.
"""

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import os
import pathlib
import platform
import re
import warnings
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core import processor
from jaxlm.core.errors import UserError
from jaxlm.core.log import say
from jaxlm.parallel import place

Value = bool | int | float | str


@dataclasses.dataclass(frozen=True)
class Option:
    """A value, why it is set, and where that is known from."""

    value: Value
    reason: str
    source: str
    # Set only where a bfloat16 product then becomes this in its program's text: a plain dot, or oneDNN's call, without which it would
    # only cost (jaxlib 0.12 cannot keep a program with that call, which takes softmax in float32 too: each process compiles it again).
    call: str = ""
    # Of those, what float32 programs get too where they are heavy: its gain then outweighs being compiled anew.
    float32: bool = False
    # The value where there is no such library, which serves the same programs.
    without: Value | None = None


_ONEDNN = "xla_cpu_experimental_onednn_custom_call"
_IN_PLACE = Option(True, "the optimizer updates its moments in place, where the step began with a copy of both: 20 MB of 390 less, 2% faster",
                   "XLA's copy insertion; measured")
OPTIONS: dict[str, dict[str, Option]] = {
    "cpu": {
        # Products stand alone for it, see layers/linear.py: it fuses activations wrongly, without an error and with the right
        # loss. tests/training/test_cpu_step.py compares gradients under this table with those under none.
        _ONEDNN: Option(
            True, "oneDNN's products: a bfloat16 step in 0.7 of the time; of float32 it gets weights' gradients, which YNNPACK leaves: 0.94",
            "openxla/xla#31025; measured", call="__onednn$matmul", float32=True),
        "xla_cpu_experimental_ynn_fusion_type": Option(
            "", "oneDNN gets only the products that YNNPACK has not taken; without oneDNN YNNPACK computes products, one by one, and nothing "
            "else: 4 x 128 in 0.65 and 6 x 384 in 0.92 of the time of jaxlib 0.10.2", "jax-ml/jax#33900; measured",
            call="__onednn$matmul", without="LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"),
        "xla_cpu_prefer_vector_width": Option(
            512, "the whole width of AVX-512, where LLVM prefers half of it",
            "LLVM's prefer-vector-width; measured"),
        "xla_cpu_copy_insertion_use_region_analysis": _IN_PLACE,
    },
    # An x86 processor without AVX-512, as most laptops have.
    "narrow_cpu": {
        "xla_cpu_experimental_ynn_fusion_type": Option(
            "", "bfloat16 products by Eigen: 6 x 384 in 0.87 and BERT base in 0.71 of the time of oneDNN's, 0.88 and 0.85 of YNNPACK's. "
            "float32 stays as jaxlib has it: with oneDNN for weights' gradients it takes 1.05 to 1.1 of the time", "measured", call="dot("),
        "xla_cpu_copy_insertion_use_region_analysis": _IN_PLACE,
    },
    "gpu": {
        "xla_gpu_enable_latency_hiding_scheduler": Option(
            True, "communication overlaps with computation", "NVIDIA JAX-Toolbox, which sets it in its images; not measured here"),
    },
    # libtpu's own defaults: nothing has been measured that beats them.
    "tpu": {},
}


# Floating-point operations of a program from which it is heavy: half a second of two cores in float32.
HEAVY = 1e11


def options(changes: Iterable[str] = (), bfloat16: bool = True, flops: float = 0.0) -> dict[str, Value]:
    """The options for programs of the layout in force: the platform's table with `changes` ("name=value") over it.

    bfloat16: the programs have products in it, else what only serves those is left out; flops: about how many operations the
    heaviest of them has, at each of its runs.

    "name=default" takes a table's option out, and "default" all of them. An option of the table that this jaxlib or
    processor has not is said once and left out; UserError for one that is asked for and not known.
    """
    serves = lambda option: bfloat16 or not option.call or option.float32 and flops >= HEAVY
    kind = _kind()
    everything = OPTIONS.get(kind, {})
    library = any(option.call and serves(option) for option in everything.values())
    table, asked = {name: option for name, option in everything.items() if library or not option.call}, {}
    for change in changes:
        name, value = parse(change)
        if not name:
            table = {}
        elif value == "default":
            table.pop(name, None)
            asked.pop(name, None)
        else:
            table.pop(name, None)
            asked[name] = value
    # Whether a library is there is asked under the whole table: it shows in a bfloat16 product.
    found = {name: value for name, value in _usable(kind, tuple(table.items())).items() if serves(table[name])}
    if asked:
        try:
            _compiled({**found, **asked})
        except jax.errors.JaxRuntimeError as error:
            raise UserError(f"train.compiler_options: {_reason(error)}") from error
    return {**found, **asked}


def _kind() -> str:
    """Which table is the platform's."""
    return "narrow_cpu" if place.platform() == "cpu" and narrow() else place.platform()


def narrow() -> bool:
    """Whether the processor is an x86 one without AVX-512; False where nobody says what it is."""
    found = processor.flags()
    return bool(found) and "avx512f" not in found


def parse(change: str) -> tuple[str, Value]:
    """("name", value) of "name=value", ("", "default") of "default"; ValueError for anything else."""
    if change == "default":
        return "", "default"
    name, equals, text = change.partition("=")
    if not equals or not re.fullmatch(r"\w+", name):
        raise ValueError(f"'{change}' is not name=value, as xla_cpu_prefer_vector_width=256; name=default takes one out of jaxlm's "
                         "own, default all")
    words = {"true": True, "false": False}
    return name, words[text.lower()] if text.lower() in words else int(text) if re.fullmatch(r"-?\d+", text) else text


def _compiled(chosen: dict[str, Value]) -> str:
    """A product as it is compiled with these options: one that is large enough for a library to take."""
    x = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16)
    return jax.jit(lambda a, b: a @ b).lower(x, x).compile(compiler_options=chosen).as_text()


@functools.cache
def _usable(kind: str, table: tuple[tuple[str, Option], ...]) -> dict[str, Value]:
    """What of a table this jaxlib knows, and this processor has a use for."""
    left = dict(table)
    values = lambda: {name: option.value for name, option in left.items()}
    while left:
        try:
            text = _compiled(values())
            break
        except jax.errors.JaxRuntimeError as error:
            unknown = next((name for name in left if name in str(error)), None)
            if unknown is None:
                raise
            del left[unknown]
            say(f"jaxlib {jax.lib.__version__} does not take the compiler option {unknown}: left out ({_reason(error)})")
    absent = [name for name, option in left.items() if option.call and option.call not in text]
    if not absent:
        return values()
    others = {name: dataclasses.replace(option, value=option.without, call="") if name in absent else option for name, option in left.items()}
    return _usable(kind, tuple((name, option) for name, option in others.items() if option.value is not None))


# Whether the program being traced will be compiled with oneDNN's products.
_LIBRARY: contextvars.ContextVar[bool] = contextvars.ContextVar("jaxlm_library", default=False)


@contextlib.contextmanager
def tracing_for(chosen: dict[str, Value]) -> Iterator[None]:
    """What is traced here will be compiled with these options."""
    token = _LIBRARY.set(bool(chosen.get(_ONEDNN)) and place.platform() == "cpu" and _widens(tuple(chosen.items())))
    try:
        yield
    finally:
        _LIBRARY.reset(token)


def library() -> bool:
    """Whether `ops.dense.wide` may count on oneDNN in the program being traced: on one CPU, where products are not cut."""
    return _LIBRARY.get() and place.alone()


@functools.cache
def _widens(chosen: tuple[tuple[str, Value], ...]) -> bool:
    """Whether, under these options, a bfloat16 product that is converted and multiplied by a constant is one call that writes
    float32: seen in a program and in its numbers."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((256, 256)).astype(jnp.bfloat16) for _ in range(2))
    program = jax.jit(lambda a, b: 0.5 * (a @ b).astype(jnp.float32)).lower(a, b).compile(compiler_options=dict(chosen))
    made = re.search(r'= \(?f32\[256,256\][^=]*custom_call_target="__onednn\$matmul"', program.as_text())
    exact = 0.5 * a.astype(np.float64) @ b.astype(np.float64)
    return made is not None and bool(np.abs(np.asarray(program(a, b)) - exact).max() < 1e-3)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")


def keep_programs(folder: str) -> None:
    """Keep compiled programs in a folder, so that the same program is compiled once: "auto" or its path; "off" keeps none.

    auto is JAX_COMPILATION_CACHE_DIR where that is set, else a folder of this kind of processor in the user's cache: jax
    does not ask whether a program was compiled for the processor that it is run on, and a home may be shared by several.
    """
    if folder == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    # A program with oneDNN's calls cannot be kept (see Option); it runs, and is compiled again the next time.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry.*bad_alloc")
    if folder == "auto" and jax.config.jax_compilation_cache_dir:
        return
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    path = cache / "jaxlm" / "programs" / _processor() if folder == "auto" else pathlib.Path(folder).resolve()
    if not path.is_dir():
        try:
            path.mkdir(parents=True)
        except OSError as error:
            say(f"compiled programs are not kept: {path}: {error.strerror or error}")
            return
        say(f"compiled programs are kept in {path} (--compile_cache=off: they are not)")
    jax.config.update("jax_compilation_cache_dir", str(path))


def _processor() -> str:
    """A name for what machine code depends on: eight digits that differ where the processor's abilities do."""
    about = processor.about()
    told = [about[key] for key in ("model name", "flags", "Features") if key in about] or [platform.machine(), platform.processor()]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]
