# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""From names to components: the file name is the name in the config. The only dynamic import is here."""
import dataclasses
import importlib
import json
import pathlib
import pkgutil
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from jaxlm.checkpoints import manager, start
from jaxlm.core.errors import UserError, nearest
from jaxlm.data import corpus
from jaxlm.generate import settings
from jaxlm.optim import optimizers, schedules
from jaxlm.parallel import mesh, rules
from jaxlm.training import evaluate, loop

# Kinds with a file for each choice; a section's `name` is the file's name.
KINDS = {
    "model": "jaxlm.models",
    "objective": "jaxlm.objectives",
    "source": "jaxlm.data.sources",
    "tokenizer": "jaxlm.data.tokenizers",
}
# Sections of one kind each.
SECTIONS = {
    "optimizer": optimizers.Config,
    "schedule": schedules.Config,
    "data": corpus.Config,
    "mesh": mesh.Config,
    "table": rules.Config,
    "train": loop.Config,
    "eval": evaluate.Config,
    "checkpoints": manager.Config,
    "start": start.Config,
    "generate": settings.Config,
}


def names(kind: str) -> list[str]:
    """The choices of a kind: the files of its folder that declare a Config."""
    folder = importlib.import_module(KINDS[kind]).__path__
    return sorted(m.name for m in pkgutil.iter_modules(folder) if _declares(folder[0], m.name))


def _declares(folder: str, name: str) -> bool:
    # Read, not imported: listing the choices must not import what an optional one needs.
    file = pathlib.Path(folder) / f"{name}.py"
    return file.exists() and "class Config" in file.read_text()


def find(kind: str, name: str) -> ModuleType:
    """The module of a component: a file of the kind's folder, or any importable module when the name has a dot."""
    if "." in name:  # out of tree
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{kind}.name '{name}' cannot be imported: {error}") from error
        needed = ("Config", "documents", "fingerprint") if kind == "source" else ("Config", "build")
        if missing := [part for part in needed if not hasattr(module, part)]:
            raise UserError(f"{kind}.name '{name}': the module does not declare {', '.join(missing)}")
        return module
    known = names(kind)
    if name not in known:
        raise UserError(f"{kind}.name: there is no {kind} '{name}'{nearest(name, known)} (choose from {', '.join(known)})")
    return importlib.import_module(f"{KINDS[kind]}.{name}")


def defaults(model: str = "gpt", objective: str = "causal_lm", source: str = "text", tokenizer: str = "bpe") -> ConfigDict:
    """A locked config of every field of every section at its default; a page sets only what differs."""
    chosen = {"model": model, "objective": objective, "source": source, "tokenizer": tokenizer}
    config = ConfigDict({"seed": 0, "rules": "dp"})
    for kind, name in chosen.items():
        config[kind] = _section(kind, name)
    for section, declared in SECTIONS.items():
        config[section] = ConfigDict(dataclasses.asdict(declared()))
    return config.lock()


def _section(kind: str, name: str) -> ConfigDict:
    return ConfigDict({"name": name, **dataclasses.asdict(find(kind, name).Config())})


def variant(config: ConfigDict, choices: str) -> ConfigDict:
    """`config` with components exchanged: "source=jsonl,tokenizer=byte" (what follows the colon of --config=page.py:...)."""
    with config.unlocked():
        for choice in filter(None, choices.split(",")):
            kind, _, name = choice.partition("=")
            if kind not in KINDS or not name:
                raise UserError(f"variant '{choice}': write kind=name, with a kind of {', '.join(KINDS)}")
            config[kind] = _section(kind, name)
    return config


def section(config: ConfigDict, name: str) -> Any:
    """The frozen dataclass of a section; UserError listing everything that is wrong with its fields."""
    value, problems = _parse(config, name)
    if problems:
        raise UserError("\n".join(problems))
    return value


def build(config: ConfigDict, kind: str, *args: Any, **changes: Any) -> Any:
    """The component that a section names, built from its fields (with `changes` put over them) and `args`."""
    value = dataclasses.replace(section(config, kind), **changes)
    return find(kind, config[kind].name).build(value, *args)


def layout_rules(config: ConfigDict) -> rules.Rules:
    """The sharding rules that a config names or, as rules='custom', states in its section `table`."""
    return rules.find(config.rules, section(config, "table"))


def validate(config: ConfigDict, devices: int = 0) -> None:
    """UserError with every problem of the whole config at once; with a number of devices, the mesh is checked too."""
    problems, values = [], {}
    expected = {"seed", "rules", *KINDS, *SECTIONS}
    problems += [f"unknown section '{k}'{nearest(k, expected)}" for k in config if k not in expected]
    problems += [f"section '{k}' is missing: start from jaxlm.build.defaults()" for k in sorted(expected - set(config))]
    for name in (*KINDS, *SECTIONS):
        if name in config:
            values[name], found = _parse(config, name)
            problems += found
    if not isinstance(config.get("seed", 0), int):
        problems.append(f"seed is {config.seed!r}: it must be an integer")
    try:
        rules.find(config.get("rules"))
    except UserError as error:
        problems.append(str(error))
    if values.get("table") not in (None, rules.Config()) and config.get("rules") != "custom":
        problems.append(f"table is set and rules is '{config.get('rules')}', which does not read it: set rules='custom'")
    if len(values) == len(KINDS) + len(SECTIONS) and None not in values.values() and values["train"].accumulate > 0:
        problems += _cross(config, values, devices)
    if problems:
        raise UserError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the config:\n  " + "\n  ".join(problems))


def _cross(config: ConfigDict, values: dict[str, Any], devices: int) -> list[str]:
    """What no section sees alone."""
    out = []
    train, data, model = values["train"], values["data"], values["model"]
    objective = values["objective"]
    causal, packings = getattr(objective, "causal", True), getattr(objective, "packings", ("windows", "pack"))
    if getattr(model, "causal", True) != causal:
        does = "predicts the next token, which an encoder sees" if causal else "is for models that see both ways"
        out.append(f"objective '{config.objective.name}' {does}: model '{config.model.name}' needs another objective")
    reads, gives = (getattr(x, "source", False) for x in (model, objective))
    if reads and not gives:
        out.append(f"model '{config.model.name}' reads a source and objective '{config.objective.name}' gives none: take one that "
                   "does, such as objective=seq2seq, or a decoder, such as model=gpt")
    if gives and not reads:
        out.append(f"objective '{config.objective.name}' gives a source and model '{config.model.name}' reads none: take an "
                   "encoder-decoder, such as model=transformer or model=t5, or objective=causal_lm")
    if not causal and train.sample_tokens:
        out.append(f"train.sample_tokens is {train.sample_tokens}: a model that sees both ways continues no text, set it to 0")
    if causal and reads and train.sample_tokens:
        out.append(f"train.sample_tokens is {train.sample_tokens}: a model that reads a source does not continue train.sample, set it to "
                   "0 and ask jaxlm generate for its answers")
    if train.baseline and (gives or not causal):
        out.append(f"train.baseline is '{train.baseline}': bits per byte are of objectives that predict each token of a text, set it to ''")
    if train.fp8 == "on" and getattr(model, "dtype", "") != "bfloat16":
        out.append(f"train.fp8 is 'on' and model.dtype '{getattr(model, 'dtype', '')}': products in float8 are those of a bfloat16 model, set "
                   "model.dtype to 'bfloat16' or train.fp8 to 'off'")
    pairs = getattr(values["source"], "pairs", False)
    if pairs != (data.packing == "pairs"):
        out.append(f"data.packing is '{data.packing}' and source '{config.source.name}' yields " + (
            "pairs: set it to 'pairs', and objective=seq2seq" if pairs else "texts: take source=parallel, or set source.target_field"))
    if hasattr(objective, "misfit"):
        out += objective.misfit(data.size_source, data.seq_len)
    if data.packing not in packings:
        out.append(f"data.packing is '{data.packing}': objective '{config.objective.name}' as it is set needs {' or '.join(packings)}")
    if data.packing == "stream" and not getattr(model, "recurrent", False):
        out.append(f"data.packing is 'stream', which carries a model's state from step to step, and model '{config.model.name}' has none: "
                   "take a recurrent one, such as model=lstm, or set it to 'windows' and data.shuffle to true")
    if getattr(model, "max_len", 0) and data.seq_len > model.max_len:
        out.append(f"data.seq_len {data.seq_len} is longer than model.max_len {model.max_len}")
    if gives and getattr(model, "max_len", 0) and data.size_source > model.max_len:
        out.append(f"data.source_len {data.size_source} is longer than model.max_len {model.max_len}")
    if getattr(objective, "chunks", 1) > 1 and data.seq_len % objective.chunks:
        out.append(f"objective.chunks {objective.chunks} does not divide data.seq_len {data.seq_len}")
    if values["schedule"].warmup > train.steps:
        out.append(f"schedule.warmup {values['schedule'].warmup} is longer than train.steps {train.steps}")
    kept = values["checkpoints"]
    if kept.best and not kept.metric.startswith("eval/"):
        out.append(f"checkpoints.metric is '{kept.metric}': it is one of evaluation, such as eval/loss")
    if devices:
        try:
            sizes = mesh.sizes(values["mesh"], devices)
        except UserError as error:
            return [*out, str(error)]
        try:
            found = rules.find(config.rules, values["table"])
        except UserError:  # told already
            return out
        for axis, size in sizes.items():
            if size > 1 and axis not in found.used():
                out.append(f"mesh.{axis} is {size} and rules '{found.name}' split nothing over it, so that those devices "
                           "would repeat each other's work: set it to 1, or choose other rules")
        rows = found.parts("batch", sizes)
        over = " x ".join(name for name in found.acts.get("batch", ()) if sizes[name] > 1)
        for name, batch in (("train.batch_size / train.accumulate", train.batch_size // train.accumulate),
                            ("eval.batch_size", values["eval"].batch_size)):
            if batch % rows:
                out.append(f"{name} is {batch}: it does not divide over {over} = {rows} groups of devices; "
                           f"use a multiple of {rows}")
        for name, length in (("seq_len", data.seq_len), *([("source_len", data.size_source)] if gives else [])):
            if length % found.parts("seq", sizes):
                out.append(f"data.{name} is {length}: it does not divide over the {found.parts('seq', sizes)} parts into "
                           f"which rules '{found.name}' split a row; use a multiple")
        pieces, chunks = found.parts("seq", sizes), getattr(objective, "chunks", 1)
        if chunks > 1 and not data.seq_len % chunks and data.seq_len // chunks % pieces:
            out.append(f"objective.chunks is {chunks}: a chunk's {data.seq_len // chunks} positions do not divide over the {pieces} "
                       f"parts into which rules '{found.name}' split a row; choose fewer, or 1")
    return out


def _parse(config: ConfigDict, name: str) -> tuple[Any, list[str]]:
    """(the section as its dataclass or None, its problems)."""
    fields = dict(config[name].items()) if isinstance(config[name], ConfigDict) else None
    if fields is None:
        return None, [f"section '{name}' must hold fields, it is {config[name]!r}"]
    if name in KINDS:
        try:
            declared = find(name, fields.pop("name", "")).Config
        except UserError as error:
            return None, [str(error)]
    else:
        declared = SECTIONS[name]
    problems = []
    known = {field.name: field for field in dataclasses.fields(declared)}
    for key in sorted(set(fields) - set(known)):
        problems.append(f"{name}.{key} does not exist{nearest(key, known)}")
    for key in sorted(set(known) - set(fields)):
        problems.append(f"{name}.{key} is missing")
    for key in sorted(set(known) & set(fields)):
        fields[key], problem = _typed(f"{name}.{key}", fields[key], known[key].type)
        problems += problem
    if problems:
        return None, problems
    value = declared(**fields)
    found = value.problems() if hasattr(value, "problems") else []
    return value, [p if p.startswith(name) else f"{name}.{p}" for p in found]


def _typed(where: str, value: Any, wanted: Any) -> tuple[Any, list[str]]:
    wanted = wanted if isinstance(wanted, type) else getattr(wanted, "__origin__", tuple)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), []
    if wanted is tuple and isinstance(value, list):
        return tuple(value), []
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value, []
    return value, [f"{where} is {value!r}: it must be of type {wanted.__name__}"]


def to_json(config: ConfigDict) -> str:
    """The resolved config, which `from_json` reads back."""
    return json.dumps(config.copy_and_resolve_references().to_dict(), indent=2, sort_keys=True)


def show(config: ConfigDict) -> str:
    """The resolved config for reading: a line for each section."""
    stored = json.loads(to_json(config))
    line = lambda value: " ".join(f"{k}={v!r}" if isinstance(v, str) else f"{k}={v}" for k, v in value.items())
    return "\n".join(f"{name:12}{line(value) if isinstance(value, dict) else value}" for name, value in stored.items())


def from_json(text: str, where: str = "config") -> ConfigDict:
    """The locked config that `to_json` wrote; UserError when it is not one."""
    try:
        stored = json.loads(text)
        chosen = {kind: stored[kind]["name"] for kind in KINDS}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{where} is not a jaxlm config ({type(error).__name__}: {error})") from error
    config = defaults(**chosen)
    # A field that is newer than the stored config has its default: a new field's default changes nothing.
    with config.unlocked(), config.ignore_type():
        for name, value in stored.items():
            if isinstance(value, dict) and name in config:
                for field, x in value.items():
                    config[name][field] = _tuples(x)
            else:
                config[name] = value
    return config


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def differences(first: ConfigDict, second: ConfigDict) -> list[str]:
    """'model.layers: 4 -> 6' for every field in which two configs differ."""
    flat = lambda c: {f"{k}.{f}" if isinstance(v, dict) else k: x
                      for k, v in json.loads(to_json(c)).items() for f, x in (v.items() if isinstance(v, dict) else [("", v)])}
    a, b = flat(first), flat(second)
    return [f"{k}: {a.get(k, 'absent')!r} -> {b.get(k, 'absent')!r}" for k in sorted(set(a) | set(b)) if a.get(k) != b.get(k)]
