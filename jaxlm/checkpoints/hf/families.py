# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Which module reads and writes which Hugging Face architecture.

A family's module declares MODELS (their model type -> our model), config_from_hf(config.json, names in the file) ->
fields of our Config, config_to_hf(Config, model type) -> config.json, form(model type, parameter paths) -> table.Format,
and, where two values of a field mean one model, canonical(Config).
"""

import dataclasses
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

from jaxlm.checkpoints.hf import bart, bert, gpt2, llama, t5
from jaxlm.checkpoints.hf.table import Format
from jaxlm.core.errors import UserError, nearest

FAMILIES = {kind: module for module in (gpt2, llama, bert, t5, bart) for kind in module.MODELS}
# Our model behind each of their model types.
MODELS = {kind: model for module in FAMILIES.values() for kind, model in module.MODELS.items()}
# Fields that change how a model is computed or trained, not what it is.
FREE = {"dtype", "param_dtype", "scan", "remat", "attention_backend", "init_std", "embed_dropout", "attention_dropout", "residual_dropout",
        "mlp_dropout", "router_aux", "router_z"}


def find(hf: Mapping[str, Any]) -> ModuleType:
    """The module for a config.json; UserError if there is none."""
    kind = hf.get("model_type", "")
    if kind not in FAMILIES:
        raise UserError(
            f"model_type '{kind}' cannot be read{nearest(kind, FAMILIES)} There are: {', '.join(FAMILIES)}."
        )
    return FAMILIES[kind]


def form(hf: Mapping[str, Any], paths: Collection[str]) -> Format:
    """The table between a file and a model with these parameters."""
    return find(hf).form(hf["model_type"], paths)


def config_from_hf(hf: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, Any]:
    """Fields of our Config from a config.json and the names of the file's tensors; UserError for what our model cannot do."""
    if hf.get("quantization_config"):
        raise UserError(f"this {hf.get('model_type')} model is quantized, and its weights mean nothing without their scales: take "
                        "the model it was made from")
    try:
        return find(hf).config_from_hf(hf, names)
    except KeyError as error:
        raise UserError(f"the {hf['model_type']} config.json has no field {error}: it is not whole") from error


def config_to_hf(model: str, config: Any, paths: Collection[str], like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A config.json that reads back as `config`, of the first architecture of our `model` that has all of it.

    paths: of the model's parameters, by which its heads are found again.

    like: an older config.json of the same model (the one it was imported from): its architecture is tried first, and its
    fields that we know nothing of are kept. UserError with the fields that no architecture has.
    """
    like = like or {}
    kinds = [kind for kind, ours in MODELS.items() if ours == model]
    if not kinds:
        raise UserError(f"model '{model}' has no Hugging Face counterpart here: there are {', '.join(dict.fromkeys(MODELS.values()))}")
    closest: tuple[list[str], str] | None = None
    refused = ""
    for kind in sorted(kinds, key=lambda kind: kind != like.get("model_type")):
        module = FAMILIES[kind]
        try:
            hf = module.config_to_hf(config, kind)
            if kind == like.get("model_type"):
                hf = {**like, **hf}
            written = {row.hf for row in module.form(kind, paths).rows if row.ours in paths}
            back = dataclasses.replace(type(config)(), **module.config_from_hf(hf, written))
        except UserError as error:
            refused = refused or f": {error}"
            continue
        differ = differences(module, config, back)
        if not differ:
            return hf
        if closest is None or len(differ) < len(closest[0]):
            closest = differ, kind
    shown = f"; the closest, {closest[1]}, would change " + ", ".join(closest[0]) if closest else refused
    raise UserError(f"no Hugging Face architecture computes what this {model} does{shown}")


def differences(module: ModuleType, first: Any, second: Any) -> list[str]:
    """'norm_eps: 1e-05 -> 1e-06' for each field by which two Configs are different models."""
    canonical = getattr(module, "canonical", lambda config: config)
    a, b = (dataclasses.asdict(canonical(config)) for config in (first, second))
    return [f"{name}: {a[name]!r} -> {b[name]!r}" for name in a if name not in FREE and a[name] != b[name]]
