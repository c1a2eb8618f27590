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
    tolerance: float = 0.0  # of its losses where it cannot be the same mathematics; 0: the gate's own


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
    Contender("torch_eager_tuned", _HERE + "torch_minimal", "torch_eager with an allocator that keeps its memory",
              {"compile": False, "allocator": True}),
    Contender("torch_compiled_tuned", _HERE + "torch_minimal", "torch_compiled with the same",
              {"compile": True, "allocator": True}),
    Contender("hf_trainer", _HERE + "hf_trainer", "Hugging Face Trainer", {"compile": False}),
    Contender("hf_trainer_compiled", _HERE + "hf_trainer", "Hugging Face Trainer with torch_compile", {"compile": True}),
    Contender("jaxlm_decode", _HERE + "jaxlm_decode", "jaxlm's Decoder"),
    Contender("torch_decode", _HERE + "torch_decode", "the minimal torch model with a cache, one token a step", {"compile": False}),
    Contender("torch_decode_compiled", _HERE + "torch_decode", "the same through torch.compile", {"compile": True}),
    Contender("hf_generate", _HERE + "hf_generate", "Hugging Face's generate()"),
    Contender("jaxlm_windows", _HERE + "jaxlm_input", "jaxlm's pipeline, windows of the stream", {"plan": "windows"}),
    Contender("jaxlm_pack", _HERE + "jaxlm_input", "jaxlm's pipeline, whole documents packed", {"plan": "pack"}),
    Contender("torch_loader", _HERE + "torch_input", "DataLoader in the training process", {"workers": 0}),
    Contender("torch_loader_workers", _HERE + "torch_input", "DataLoader with two workers", {"workers": 2}),
    Contender("jaxlm_checkpoint", _HERE + "jaxlm_checkpoint", "jaxlm's checkpoints"),
    Contender("torch_checkpoint", _HERE + "torch_checkpoint", "torch.save and torch.load"),
    Contender("nanodo", _HERE + "nanodo", "google-deepmind/nanodo's model in a plain jit step; it has no biases", tolerance=2e-2),
    Contender("maxtext", _HERE + "peers", "AI-Hypercomputer/maxtext"),
    Contender("levanter", _HERE + "peers", "stanford-crfm/levanter"),
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
