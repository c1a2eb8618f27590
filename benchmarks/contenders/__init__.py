# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Who is compared, by name. A contender is a module with a function for each kind of job it can do: train(job, clock), decode, ..."""
import dataclasses
import glob
from typing import Any


@dataclasses.dataclass(frozen=True)
class Contender:
    """A module, its settings, and the environment that its process is started in."""

    name: str
    module: str
    what: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


# glibc that neither maps nor trims: memory that a step has used stays with the process.
GLIBC_KEEPS = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.top_pad=268435456"}
_HERE = "benchmarks.contenders."

CONTENDERS = {c.name: c for c in (
    Contender("limits_jax", _HERE + "limits_jax", "products, copy and read rates through jax"),
    Contender("limits_torch", _HERE + "limits_torch", "the same through torch"),
    Contender("bare", _HERE + "bare", "a hand-written jit step of the same mathematics, no framework"),
    Contender("jaxlm", _HERE + "jaxlm_loop", "jaxlm, the loop of `jaxlm train` with its records and prefetch"),
    Contender("jaxlm_step", _HERE + "jaxlm_step", "jaxlm's compiled step in a bare loop, batches already on the device"),
    Contender("torch_eager", _HERE + "torch_minimal", "a minimal torch model and loop, fused AdamW", {"compile": False}),
    Contender("torch_compiled", _HERE + "torch_minimal", "the same through torch.compile", {"compile": True}),
    Contender("torch_eager_tuned", _HERE + "torch_minimal", "torch_eager with an allocator that keeps its memory", {"compile": False, "allocator": True}),
    Contender("torch_compiled_tuned", _HERE + "torch_minimal", "torch_compiled with the same", {"compile": True, "allocator": True}),
    Contender("hf_trainer", _HERE + "hf_trainer", "Hugging Face Trainer", {"compile": False}),
    Contender("hf_trainer_compiled", _HERE + "hf_trainer", "Hugging Face Trainer with torch_compile", {"compile": True}),
    Contender("nanodo", _HERE + "nanodo", "google-deepmind/nanodo's model and step, from its checkout in NANODO"),
    Contender("maxtext", _HERE + "maxtext", "AI-Hypercomputer/maxtext"),
    Contender("levanter", _HERE + "levanter", "stanford-crfm/levanter"),
)}


def find(name: str) -> Contender:
    if name not in CONTENDERS:
        raise SystemExit(f"there is no contender '{name}': choose from {', '.join(CONTENDERS)}")
    return CONTENDERS[name]


def jemalloc(given: str = "") -> str:
    """Path of the library that is preloaded for a tuned allocator, or "" where there is none and glibc's settings serve."""
    found = [given] if given else sorted(glob.glob("/usr/lib/*/libjemalloc.so.2") + glob.glob("/usr/lib64/libjemalloc.so.2"))
    return found[0] if found else ""


def environment(contender: Contender, library: str = "") -> dict[str, str]:
    """What its process is started with besides the runner's environment."""
    if not contender.options.get("allocator"):
        return dict(contender.environment)
    path = jemalloc(library)
    tuned = {"LD_PRELOAD": path, "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"} if path else GLIBC_KEEPS
    return {**contender.environment, **tuned}
