# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Compiler options: known to this jaxlib, left out and said where not, changed by the user, and set nowhere but in programs."""
import dataclasses
import os
import subprocess
import sys

import jax
import pytest

from jaxlm.core import processor
from jaxlm.core.errors import UserError
from jaxlm.parallel import compiler
from jaxlm.parallel.compiler import Option

PLAIN = Option(512, "a reason", "a source")


@pytest.fixture
def table(monkeypatch):
    """Puts another table in the place of the CPU's, whichever it is."""
    def put(**options: Option) -> None:
        for kind in ("cpu", "narrow_cpu"):
            monkeypatch.setitem(compiler.OPTIONS, kind, options)

    compiler._usable.cache_clear()
    yield put
    compiler._usable.cache_clear()


@pytest.mark.parametrize("text, narrow", [
    ("processor\t: 0\nflags\t\t: fpu avx2 fma\nbugs\t: spectre\n", True), ("flags\t\t: fpu avx2 avx512f avx512bw\nbugs\t:\n", False),
    ("processor\t: 0\nFeatures\t: fp asimd bf16\n", False), (None, False)])
def test_which_table_a_processor_has(monkeypatch, tmp_path, text, narrow):
    """Fails if a processor without AVX-512 gets what was measured with it, or one of another kind the table of that one:
    `return False` in narrow, or without its `bool(found) and`."""
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", path)
    for kind, value in (("cpu", 256), ("narrow_cpu", 128)):
        monkeypatch.setitem(compiler.OPTIONS, kind, {"xla_cpu_prefer_vector_width": Option(value, "a reason", "a source")})
    assert compiler.options() == {"xla_cpu_prefer_vector_width": 128 if narrow else 256}


def test_every_option_has_its_reason_and_is_known():
    """Fails if an option is misspelt. XLA parses the names of all platforms but TPU's own everywhere."""
    assert set(compiler.OPTIONS) == {"cpu", "narrow_cpu", "gpu", "tpu"}
    for platform in ("cpu", "narrow_cpu", "gpu"):
        for name, option in compiler.OPTIONS[platform].items():
            assert option.reason and option.source
            if "cpu" not in platform or jax.__version__ >= "0.12":  # newer options may be unknown to an older jaxlib
                for value in {option.value, option.without} - {None}:
                    jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options={name: value})


def test_an_unknown_option_is_said_once_and_left_out(table, capsys):
    """Fails if it ends the run, or goes without a word: drop `say` from _usable."""
    table(xla_cpu_prefer_vector_width=PLAIN, xla_cpu_of_another_jaxlib=dataclasses.replace(PLAIN, without=256))
    for _ in range(2):
        assert compiler.options() == {"xla_cpu_prefer_vector_width": 512}
    assert capsys.readouterr().err.count("xla_cpu_of_another_jaxlib: left out") == 1


def test_an_option_without_its_library_is_left_out(table):
    """Fails if options that only help with a library are set without it: `absent = []` in _usable."""
    table(xla_cpu_prefer_vector_width=PLAIN, xla_cpu_enable_fast_math=Option(False, "a reason", "a source", call="__no_such_library"))
    assert compiler.options() == {"xla_cpu_prefer_vector_width": 512}


def test_what_bfloat16_gets_where_there_is_no_library(table):
    """Fails if the value for that case is not set, or in float32 programs too: leave out `value=option.without` in _usable,
    or the last `if` of the line before `if asked` in options."""
    table(xla_cpu_prefer_vector_width=Option(512, "a reason", "a source", call="__no_such_library", without=256),
          xla_cpu_enable_fast_math=Option(False, "a reason", "a source", call="__no_such_library", float32=True))
    assert compiler.options() == {"xla_cpu_prefer_vector_width": 256}
    assert compiler.options(bfloat16=False, flops=compiler.HEAVY) == compiler.options(("xla_cpu_prefer_vector_width=default",)) == {}
    assert compiler.options(("xla_cpu_prefer_vector_width=128",)) == {"xla_cpu_prefer_vector_width": 128}
    table(xla_cpu_prefer_vector_width=Option(512, "a reason", "a source", call="dot(", without=256))
    assert compiler.options() == {"xla_cpu_prefer_vector_width": 512}


def test_what_serves_bfloat16_alone_is_no_option_of_float32(table):
    """Fails if float32 programs get oneDNN's calls, which jax cannot keep: `serves = lambda option: True` in options."""
    table(xla_cpu_prefer_vector_width=Option(512, "a reason", "a source", call="dot("), xla_cpu_enable_fast_math=Option(False, "a reason", "a source"))
    assert compiler.options(bfloat16=False) == {"xla_cpu_enable_fast_math": False}
    assert set(compiler.options()) == {"xla_cpu_prefer_vector_width", "xla_cpu_enable_fast_math"}


def test_a_heavy_float32_program_gets_what_serves_it(table):
    """Fails if float32 steps that take seconds do without a library for the sake of a compilation, or if small ones get it:
    drop `and flops >= HEAVY` from options."""
    call = dict(call="dot(")
    table(xla_cpu_prefer_vector_width=Option(512, "a reason", "a source", float32=True, **call),
          xla_cpu_enable_fast_math=Option(False, "a reason", "a source", **call))
    assert compiler.options(bfloat16=False, flops=compiler.HEAVY) == {"xla_cpu_prefer_vector_width": 512}
    assert compiler.options(bfloat16=False, flops=compiler.HEAVY / 2) == {}


def test_changes(table):
    table(xla_cpu_prefer_vector_width=PLAIN)
    assert compiler.options(("xla_cpu_prefer_vector_width=256",)) == {"xla_cpu_prefer_vector_width": 256}
    assert compiler.options(("xla_cpu_enable_fast_math=false",)) == {"xla_cpu_prefer_vector_width": 512, "xla_cpu_enable_fast_math": False}
    assert compiler.options(("xla_cpu_prefer_vector_width=default",)) == compiler.options(("default",)) == {}
    for wrong, word in (("xla_cpu_nothing=1", "xla_cpu_nothing"), ("xla_cpu_enable_fast_math=perhaps", "xla_cpu_enable_fast_math")):
        with pytest.raises(UserError, match=word):
            compiler.options((wrong,))
    for wrong in ("xla_cpu_prefer_vector_width", "--xla=1", "=3"):
        with pytest.raises(ValueError, match="not name=value"):
            compiler.parse(wrong)


def run(code: str, **env: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_importing_sets_nothing_and_programs_are_kept_where_asked(tmp_path):
    """Fails if jaxlm writes XLA_FLAGS or turns jax's cache on when imported: keep_programs("auto") at the end of compiler.py."""
    code = """
import os
before = dict(os.environ)
import jax
from jaxlm.parallel import compiler
from jaxlm.training import step
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert jax.config.jax_compilation_cache_dir is None
for _ in range(2):
    compiler.keep_programs("auto")
print(jax.config.jax_compilation_cache_dir)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((64, 64), "float32")).compile(compiler_options=compiler.options(bfloat16=False))
jax.jit(jax.nn.softmax).lower(jax.ShapeDtypeStruct((64, 64), "float32")).compile(compiler_options=compiler.options(bfloat16=False))
compiler.keep_programs("off")
print("off", jax.config.jax_enable_compilation_cache)
"""
    environment = {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    for name in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS"):
        environment[name] = ""
    code = "import os; [os.environ.pop(n) for n in ('JAX_COMPILATION_CACHE_DIR', 'XLA_FLAGS')]\n" + code
    out = run(code, **environment)
    folder, = (tmp_path / "jaxlm" / "programs").iterdir()
    assert out.count(f"kept in {folder}") == 1 and f"\n{folder}\n" in "\n" + out and "off False" in out
    kept = {path.name.split("-")[0] for path in folder.iterdir()}
    assert {"jit__lambda", "jit_softmax"} <= kept and "Error" not in out, (kept, out)
