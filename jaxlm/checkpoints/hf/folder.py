# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A Hugging Face model folder: its config, weights and tokenizer files, opened as one and written as one."""
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxlm.checkpoints import safetensors
from jaxlm.checkpoints.hf import families, table
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.core.types import Params, Vocabulary
from jaxlm.data.tokenizers import file
from jaxlm.data.tokenizers.hf_files import hf_files
from jaxlm.data.tokenizers.tokenizer import Tokenizer

CONFIG = "config.json"
GENERATION = "generation_config.json"
# What a tokenizer may consist of.
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
             "merges.txt", "chat_template.jinja")


# Fields of a Config that may differ between a folder's model and one that takes weights from it.
_ANY = {"vocab_size", "max_len", "masked_head", "pair_head", "pooler", "discriminator", "tie_embeddings"}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter as a folder holds it: its row of the table and {place among the layers: name in the file}."""

    shape: tuple[int, ...]
    dtype: np.dtype
    row: table.Row | None = None
    sources: Mapping[tuple[int, ...], str] = dataclasses.field(default_factory=dict)


class Folder:
    """A folder as it is read. `hf` is its config.json, `model` our family, `fields` those of our Config.

    UserError where a file is absent or damaged or the architecture is none of ours; the numbers are not read yet.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).expanduser()
        self.hf = read_json(self.path / CONFIG)
        if self.hf is None:
            raise UserError(f"{self.path} holds no {CONFIG}: is it the folder of a Hugging Face model?")
        families.find(self.hf)  # the architecture is the first thing to know
        self.weights = safetensors.Weights(self.path)
        self.model = families.MODELS[self.hf["model_type"]]
        self.fields = families.config_from_hf(self.hf, self.weights)

    def form(self, abstract: Any) -> table.Format:
        return families.form(self.hf, tree.paths(abstract))

    def params(self, abstract: Any) -> Params:
        """Parameters like `abstract`, straight into its shardings. UserError with everything that does not fit."""
        try:
            return table.to_params(self.weights, self.form(abstract), abstract, self.weights.release)
        except UserError as error:
            raise UserError(f"{self.path}: {error}. The file must be that of the {self.hf['model_type']} model that {CONFIG} "
                            "describes: copy or download both again, or save them together with save_pretrained(folder)") from error

    def leaves(self, wanted: Mapping[str, Any]) -> dict[str, Leaf]:
        """The parameters in the folder by path.

        Paths are ours, shapes those of `wanted` where the numbers fit it; a tensor that no parameter stands for keeps its
        name. UserError where a layer is missing.
        """
        form = families.form(self.hf, wanted)
        names = table.actual_names(self.weights, form)
        if different := table.unequal(self.weights, form):
            raise UserError(f"{self.path}: {'; '.join(different)}")
        out, used = {}, set()
        for row in form.rows:
            pattern = re.compile(re.escape(row.hf).replace(r"\{\}", r"(\d+)") + "$")
            found = {tuple(map(int, m.groups())): names[name] for name in names if (m := pattern.match(name))}
            if not found:
                continue
            used |= set(found.values())
            lead = tuple(max(at[i] for at in found) + 1 for i in range(row.stacked))
            lacking = [row.hf.format(*at) for at in np.ndindex(*lead) if at not in found]
            if lacking:
                raise UserError(f"{self.path} holds no tensor {lacking[0]}, though it holds others of its kind: copy or download it again")
            one = self.weights[next(iter(found.values()))]
            here = tuple(wanted[row.ours].shape[row.stacked :]) if row.ours in wanted else None
            fits = here is not None and table.file_shape(row, here) == one.shape
            if row.part[0] == 0 or fits:
                out[row.ours] = Leaf((*lead, *(here if fits else one.shape)), one.dtype, row, found)
        spare = [name for name, file in names.items() if file not in used and not form.spare(name)]
        return out | {name: Leaf(self.weights[names[name]].shape, self.weights[names[name]].dtype) for name in spare}

    def read(self, leaf: Leaf, wanted: Any) -> jax.Array:
        """A parameter of `leaves` in the type and sharding of `wanted`."""
        out = table.place(self.weights, leaf.row, leaf.sources, wanted)
        self.weights.release()
        return out

    def misfits(self, model: str, config: Any, tokenizer: Any = None) -> list[str]:
        """What makes another model of these weights in `config`, and (with a tokenizer) other words of its tokens: sentences.

        Heads and sizes are not looked at: parameters are taken one by one, and their shapes tell.
        """
        if model != self.model:
            return [f"model.name is '{model}', and {self.path} holds a {self.model} ({self.hf['model_type']})"]
        there = dataclasses.replace(config, **{name: x for name, x in self.fields.items() if name not in _ANY})
        out = [f"model.{line}" for line in families.differences(families.find(self.hf), there, config)]
        if tokenizer is not None and _texts(self.path, TOKENIZER) and not is_tokenizer(self.path, tokenizer):
            out.append(f"the tokenizer is not that of {self.path}: --config=PAGE.py:tokenizer=file --config.tokenizer.path={self.path}")
        return out

    def check_vocabulary(self, abstract: Any, tokens: int) -> None:
        """UserError where a tokenizer knows more tokens than the model has rows for (fewer is common: tables are padded)."""
        rows = tree.flatten(abstract)["embed/tokens"].shape[0]
        if tokens > rows:
            name = next(row.hf for row in self.form(abstract).rows if row.ours == "embed/tokens")
            raise UserError(f"the tokenizer has {tokens:,} tokens and {name} of {self.path} {rows:,} rows: the tokenizer is not this "
                            "model's. Name the right one with --config.tokenizer.path")

    def changed(self, abstract: Any, params: Params) -> list[str]:
        """The tensors that differ in any bit after having been read and written back: [] when nothing has changed."""
        back = table.from_params(params, self.form(abstract))
        form = self.form(abstract)
        names = table.actual_names(self.weights, form)
        strip = form.prefix if form.bare else ""
        known = {name.removeprefix(strip): file for name, file in names.items()}
        out = []
        for name, tensor in back.items():
            stored = self.weights[known[name]]
            again = np.asarray(tensor.read().astype(stored.dtype), order="C")
            if again.shape != stored.shape or again.tobytes() != stored.tobytes():
                out.append(name)
            self.weights.release()
        return out

    def texts(self, tokenizer: Tokenizer | None = None) -> dict[str, str]:
        """The files beside the weights that a copy of this model needs; with a tokenizer, that one's in place of its own."""
        names = (CONFIG, GENERATION, *(TOKENIZER if tokenizer is None else ()))
        return _texts(self.path, names) | ({} if tokenizer is None else hf_files(tokenizer, sides=bool(self.hf.get("is_encoder_decoder"))))


def _texts(path: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
    return {name: (path / name).read_text(encoding="utf-8") for name in names if (path / name).is_file()}


def is_tokenizer(path: pathlib.Path, tokenizer: Tokenizer) -> bool:
    """Whether a folder's tokenizer files are those of `tokenizer`."""
    try:
        there = file.build(file.Config(path=str(path))).to_hf_json()
        return json.loads(there) == {**json.loads(tokenizer.to_hf_json()), "padding": None, "truncation": None}
    except UserError:
        return False  # there is none, or not without what a run's config says of it


def tokenizer_files(kept: pathlib.Path, tokenizer: Tokenizer, sides: bool = False) -> dict[str, str]:
    """The files that came with a model where they still are its tokenizer (they say more: chat template, class), else `hf_files`."""
    return _texts(kept, TOKENIZER) if is_tokenizer(kept, tokenizer) else hf_files(tokenizer, sides=sides)


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return found


def target_roles(hf: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
    """The roles `start` and `begin` of an encoder-decoder's tokenizer as its folder has them, {} where the tokenizer has them already.

    start: what config.json begins a decoder's targets with. begin: what the tokenizer's own template puts before a text.
    UserError where these are not special tokens of this tokenizer, or its template does not end a text with eot.
    """
    found, name = {}, {i: name for name, i in tokenizer.special.items()}
    start = hf.get("decoder_start_token_id")
    if start not in (None, tokenizer.vocabulary.start):
        if start not in name:
            raise UserError(f"{CONFIG} has decoder_start_token_id {start}, and no special token of the tokenizer has that id: the tokenizer is "
                            "not this model's. Name the right one with --config.tokenizer.path")
        found["start"] = name[start]
    if tokenizer.own_template is not None:
        ids = [i if of < 0 else None for of, i, _ in tokenizer.own_template.single]
        before, after = ids[:ids.index(None)], ids[ids.index(None) + 1:]
        if len(before) > 1 or after != [tokenizer.eot]:
            shown = " ".join("text" if i is None else name.get(i, str(i)) for i in ids)
            raise UserError(f"the tokenizer puts special tokens around a text as in '{shown}': an encoder-decoder's may put one before it, and "
                            f"the end of a text behind it, which is here {name.get(tokenizer.eot, tokenizer.eot)} (--config.tokenizer.eot names another)")
        if before and tokenizer.roles.get("begin") != name[before[0]]:
            found["begin"] = name[before[0]]
    return found


def answers(path: pathlib.Path, hf: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder says of the form of every answer, as fields of generate/settings.py: the token that it begins with, and those
    that it never has. How an answer is searched for (beams, lengths) is the user's to say."""
    said = {**hf, **(read_json(path / GENERATION) or {})}
    never = [*(said.get("suppress_tokens") or ()), *(ids[0] for ids in said.get("bad_words_ids") or () if len(ids) == 1)]
    first = said.get("forced_bos_token_id")
    return ({} if first is None else {"forced_bos": int(first)}) | ({"suppress": tuple(sorted({*map(int, never)}))} if never else {})


def special_ids(vocabulary: Vocabulary, causal: bool, source: bool = False) -> dict[str, int]:
    """The special tokens that a config.json names: left out, a reader would take those of some published model.

    A decoder is trained on documents that each begin behind the separator; one that reads a source, on targets behind `start`.
    """
    if source:
        return special_ids(vocabulary, causal) | {"decoder_start_token_id": vocabulary.start}
    if causal:
        return {"bos_token_id": vocabulary.eot, "eos_token_id": vocabulary.eot, "pad_token_id": vocabulary.pad}
    return {"pad_token_id": vocabulary.pad, "bos_token_id": vocabulary.cls, "eos_token_id": vocabulary.sep}


def generation(kept: pathlib.Path, ids: Mapping[str, int | None], causal: bool) -> dict[str, str]:
    """generation_config.json of a decoder: the one it was imported with, else one that ends where documents end."""
    if not causal:
        return {}
    made = {"_from_model_config": True, **{name: i for name, i in ids.items() if i is not None}}
    return {GENERATION: json.dumps(made, indent=2, sort_keys=True) + "\n"} | _texts(kept, (GENERATION,))


def write(path: str | os.PathLike, params: Params, hf: Mapping[str, Any], files: Mapping[str, str], *, dtype: str = "",
          shard_bytes: int = safetensors.SHARD_BYTES) -> None:
    """A new folder that Hugging Face loads, whole or absent: weights, config.json (`hf`) and further text files by name."""
    tensors = table.from_params(params, families.form(hf, tree.paths(params)), safetensors.BY_NAME[dtype] if dtype else None)
    kinds = {str(tensor.dtype) for tensor in tensors.values()}
    stated = {"dtype": kinds.pop()} if len(kinds) == 1 else {}
    stated |= {"torch_dtype": stated["dtype"]} if stated else {}  # as it was called before transformers 5
    texts = {**files, CONFIG: json.dumps({**hf, **stated}, indent=2, sort_keys=True) + "\n"}
    safetensors.write_folder(path, tensors, texts, shard_bytes)
