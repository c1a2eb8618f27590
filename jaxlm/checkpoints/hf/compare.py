# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Our model beside the one that transformers makes of the same folder, layer by layer: the one place that knows torch."""
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jaxprs

from jaxlm.checkpoints.hf.folder import Folder
from jaxlm.core import tree
from jaxlm.core.types import Array, Batch, Outputs, Params
from jaxlm.layers.stack import LAYER

# Their name of each result -> ours. The first logits of an ELECTRA are its discriminator's.
RESULTS = {"prediction_logits": "logits", "logits": "logits", "seq_relationship_logits": "pair", "sop_logits": "pair",
           "pooler_output": "pooled", "last_hidden_state": "hidden"}


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the reference computes: results by our names, the stream before and after each layer, and its parameters.

    encoder: how many of the streams are those of an encoder whose decoder follows.
    """

    results: dict[str, np.ndarray]
    layers: list[np.ndarray]
    parameters: int
    encoder: int = 0


def installed() -> str:
    """The versions of torch and transformers, "" where one of them is absent."""
    try:
        import torch
        import transformers
    except ImportError:
        return ""
    return f"torch {torch.__version__}, transformers {transformers.__version__}"


def reference(folder: pathlib.Path, hf: Mapping[str, Any], batch: Batch) -> Reference:
    """transformers' model of a folder on a batch, in float32 on the CPU, by the plainest formulation of attention."""
    import torch
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    architecture = (hf.get("architectures") or [""])[0]
    model = getattr(transformers, architecture, transformers.AutoModel).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True).eval()
    names = {"tokens": "input_ids", "segments": "attention_mask", "types": "token_type_ids"}
    if "source_tokens" in batch:
        names = {"source_tokens": "input_ids", "source_segments": "attention_mask", "tokens": "decoder_input_ids",
                 "segments": "decoder_attention_mask"}
    given = {names[key]: torch.tensor(np.asarray(x, np.int64)) for key, x in batch.items()}
    encoder, last = model.get_encoder() if "source_tokens" in batch else None, []
    if hasattr(encoder, "final_layer_norm"):  # its last stream is given behind this norm, and ours before it
        encoder.final_layer_norm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    with torch.no_grad():
        found = model(**given, output_hidden_states=True)
    results = {ours: found[theirs].float().numpy() for theirs, ours in RESULTS.items() if theirs in found}
    if architecture == "ElectraForPreTraining":
        results = {"discriminator": results["logits"]}
    if encoder is None:
        return Reference(results, [x.float().numpy() for x in found["hidden_states"]], size(model))
    streams = list(found["encoder_hidden_states"])
    streams[-1:] = last or streams[-1:]
    both = [x.float().numpy() for x in (*streams, *found["decoder_hidden_states"])]
    return Reference(results, both, size(model), len(streams))


def size(model: Any) -> int:
    """Numbers that a model of theirs learns: a bias of logits is a buffer there, and a table of sines a parameter."""
    fixed = model._keys_to_ignore_on_save or ()
    return sum(x.numel() for name, x in model.named_parameters() if name not in fixed) + sum(
        x.numel() for name, x in model.named_buffers() if name == "final_logits_bias")


def results(out: Outputs) -> dict[str, Array]:
    """What our model gives, by name."""
    return {"hidden": out.hidden, **(out.head or {}), **({} if out.table is None else {"logits": out.logits})}


def ours(apply: Callable[[Params, Batch], Outputs], params: Params, batch: Batch) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """(results, the stream before and after each layer) of a model whose layers are not scanned."""
    closed, shape = jax.make_jaxpr(lambda p, b: results(apply(p, b)), return_shape=True)(params, batch)
    run = jax.jit(lambda *leaves: _evaluate(closed.jaxpr, closed.consts, leaves))
    outs, layers = jax.device_get(run(*jax.tree.leaves((params, batch))))
    if not layers:
        raise ValueError("no layer is marked: build the model with scan=False")
    return jax.tree.unflatten(jax.tree.structure(shape), outs), layers


def _evaluate(jaxpr: Any, consts: Sequence, args: Sequence) -> tuple[list[Array], list[Array]]:
    """(results, what is marked as a layer's) of equations."""
    env, marked = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True)), []
    read = lambda atom: atom.val if isinstance(atom, jaxprs.Literal) else env[atom]
    for equation in jaxpr.eqns:
        outs = equation.primitive.bind(*map(read, equation.invars), **equation.primitive.get_bind_params(equation.params))
        env.update(zip(equation.outvars, outs if equation.primitive.multiple_results else [outs], strict=True))
        if equation.primitive.name == "name" and equation.params["name"] == LAYER:
            marked.append(outs)
    return [read(atom) for atom in jaxpr.outvars], marked


def first_difference(theirs: Reference, results: Mapping[str, np.ndarray], layers: list[np.ndarray], real: np.ndarray,
                     tolerance: float, source: np.ndarray | None = None) -> tuple[dict[str, float], str]:
    """({result: largest difference at real tokens}, where the two first part by more than `tolerance`, "" if nowhere).

    source: which tokens of an encoder-decoder's source are real. The tolerance is absolute for numbers up to 1 and relative to the largest beyond.
    """
    there = lambda x, real=real: x[real] if x.shape[:2] == real.shape else x
    apart = lambda a, b, real=real: float(np.max(np.abs(there(a, real) - there(b, real))))
    scale = lambda x, real: max(1.0, float(np.abs(there(x, real)).max()))
    differ = lambda a, b, real=real: not apart(a, b, real) <= tolerance * scale(b, real)
    found = {name: apart(results[name], x) for name, x in theirs.results.items() if name in results}
    if not any(differ(results[name], theirs.results[name]) for name in found):
        return found, ""
    for number, (a, b) in enumerate(zip(layers[: theirs.encoder], theirs.layers, strict=False)):
        if differ(a, b, source):
            return found, f"the encoder's {f'layer {number - 1}' if number else 'embeddings'} (by {apart(a, b, source):.3g})"
    side = "the decoder's " if theirs.encoder else ""
    for number, (a, b) in enumerate(zip(layers[theirs.encoder :], theirs.layers[theirs.encoder :], strict=True)):
        # What is called the last layer's is, in decoders, what their last norm made of it.
        last = number == len(layers) - theirs.encoder - 1
        end = results["hidden"] if last and results["hidden"].shape == b.shape else a
        if differ(a, b) and differ(end, b):
            where = f"{side or 'the '}embeddings" if not number else f"{side}layer {number - 1}"
            where += " or the norm behind the encoder" if side and number == 1 else ""
            return found, f"{where}{' or the norm behind it' if last else ''} (by {apart(a, b):.3g})"
    return found, "what follows the last layer: " + ", ".join(name for name in found if differ(results[name], theirs.results[name]))


def sample(source: Folder, rows: int = 2, length: int = 48, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens with padding in the second row, longer than a sliding window where the model's length allows."""
    fields = source.fields
    length = min(max(length, 2 * fields.get("window", 0)), fields.get("max_len", 512), 512)
    draw = np.random.default_rng(seed)
    # RoBERTa knows padding, and from it positions, by the token.
    padding = source.hf.get("pad_token_id") or 0 if fields.get("position_offset") else 0
    batch = _drawn(draw, rows, length, fields["vocab_size"], padding)
    if source.hf.get("is_encoder_decoder"):
        other = _drawn(draw, rows, length - length // 3, fields["vocab_size"], padding)
        batch |= {f"source_{key}": x for key, x in other.items()}
    if fields.get("types", 0) > 1:
        batch["types"] = draw.integers(0, fields["types"], (rows, length)).astype(np.int32)
    return batch


def _drawn(draw: np.random.Generator, rows: int, length: int, vocab_size: int, padding: int) -> dict[str, np.ndarray]:
    tokens = draw.integers(padding + 1, vocab_size, (rows, length)).astype(np.int32)
    segments = np.ones_like(tokens)
    segments[1:, length - length // 4 :] = 0
    return {"tokens": np.where(segments > 0, tokens, padding).astype(np.int32), "segments": segments}


def told(source: Folder, apply: Callable[[Params, Batch], Outputs], params: Params, tolerance: float, versions: str) -> bool:
    """Prints how far our results are from the reference's, and where the two first part; whether they agree."""
    batch = sample(source)
    theirs = reference(source.path, source.hf, batch)
    found, layers = ours(apply, params, batch)
    apart, where = first_difference(theirs, found, layers, batch["segments"] > 0, tolerance,
                                    batch["source_segments"] > 0 if theirs.encoder else None)
    shown = ", ".join(f"{name} {value:.2g} (of {np.abs(theirs.results[name]).max():.3g})" for name, value in apart.items())
    rows, length = batch["tokens"].shape
    print(f"against {versions}, {rows} x {length} random tokens with padding, float32: largest differences {shown}")
    size = tree.size(params)
    if size != theirs.parameters:
        print(f"DIFFERENT: {size:,} parameters here, {theirs.parameters:,} there")
    print(f"DIFFERENT, first in {where}" if where else f"all within {tolerance:g}")
    return not where and size == theirs.parameters
