# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A source and a tokenizer become the rows to train and to evaluate on: the `data` section of a config page."""
import dataclasses
import os
import pathlib
from types import ModuleType
from typing import Any

from jaxlm.core.errors import UserError, nearest
from jaxlm.core.files import write_atomically
from jaxlm.core.log import say
from jaxlm.data import digest, pipeline, sampler, store
from jaxlm.data.pack import Packed, Plan, Rows, Windows
from jaxlm.data.pairs import Pairs
from jaxlm.data.sentences import SPLITTERS
from jaxlm.data.stream import Stream
from jaxlm.data.stretches import Stretches
from jaxlm.data.texts import Texts
from jaxlm.data.tokenizers.tokenizer import Tokenizer, from_json

PLANS = {"windows": Windows, "pack": Packed, "stream": Stream, "sentences": Stretches, "pairs": Pairs}


@dataclasses.dataclass(frozen=True)
class Config:
    """seq_len: tokens in a row, of pairs those of their targets. holdout: fraction of documents kept for evaluation, chosen by content; 0.0 keeps none.

    packing: "windows" cuts the stream of documents into rows without padding; "pack" puts whole documents into rows;
    "stream" cuts windows too, and each row goes on where it ended in the step before, for recurrent models, which carry their
    state over: that order is shuffle=False;
    "sentences" gives each row whole sentences of one document, for encoders and pairs of sentences; "pairs" puts whole
    pairs of a source and its target into rows, for encoder-decoders. Where an objective makes sources and targets of texts,
    "windows" and "pack" fill rows of both (data/texts.py).
    source_len: positions of a row's sources, 0 for seq_len. cut_pairs: pairs longer than a row are cut, not refused.
    sentences: how that packing splits a document, one sentence a "line" or the running "text" by its full stops.
    cache_dir: where token stores are kept, "" for `cache` in the run's folder. prefetch: batches made ahead.
    verify: check the checksums of a token store when it is opened. eval_documents: at most so many held-out documents,
    0 for all.
    """
    seq_len: int = 256
    holdout: float = 0.02
    packing: str = "windows"
    source_len: int = 0
    cut_pairs: bool = False
    sentences: str = "line"
    shuffle: bool = True
    prefetch: int = 2
    cache_dir: str = ""
    verify: bool = True
    eval_documents: int = 0

    @property
    def size_source(self) -> int:
        return self.source_len or self.seq_len

    def problems(self) -> list[str]:
        found = []
        if self.seq_len < 1:
            found.append(f"data.seq_len={self.seq_len} must be at least 1")
        if self.source_len < 0:
            found.append(f"data.source_len={self.source_len} must be at least 1, or 0 for data.seq_len")
        if not 0.0 <= self.holdout < 1.0:
            found.append(f"data.holdout={self.holdout} must be in [0, 1): the fraction of documents "
                         "kept for evaluation")
        for name, known in (("packing", PLANS), ("sentences", SPLITTERS)):
            value = getattr(self, name)
            if value not in known:
                found.append(f"data.{name}={value!r} is unknown{nearest(value, known)}: use {' or '.join(known)}")
        if self.packing == "stream" and self.shuffle:
            found.append("data.shuffle is true and data.packing 'stream' reads the text in its order: set data.shuffle to false")
        if self.prefetch < 0:
            found.append(f"data.prefetch={self.prefetch} must not be negative; 0 makes batches when they are asked for")
        if self.eval_documents < 0:
            found.append(f"data.eval_documents={self.eval_documents} must not be negative; 0 takes all "
                         "held-out documents")
        return found


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Rows to train on and, unless holdout is 0, to evaluate on; the stores behind them; and what they were made from.

    fingerprint: JSON for the checkpoint; two runs with the same one, seed and batch size see the same batches.
    """
    train: Plan
    eval: Plan | None
    train_store: store.Store
    eval_store: store.Store | None
    fingerprint: dict

    @property
    def eval_bytes(self) -> int:
        """UTF-8 bytes that `eval` predicts: bits per byte is the sum of losses over it / ln 2 / this. 0 where it predicts a part only."""
        return int(self.eval_store.bytes.sum()) if self.eval_store and getattr(self.eval, "whole", True) else 0

    @property
    def eval_tokens(self) -> int:
        """Tokens predicted over `eval`, each document's separator among them."""
        return self.eval_store.predicted if self.eval_store else 0

    def check_held_out(self, prepare: pipeline.Prepare) -> None:
        """UserError where an objective's `prepare` makes nothing of the held-out text: before the first step, not at the first evaluation."""
        if self.eval is None:
            return
        try:
            pipeline.make(sampler.InOrder(self.eval, 1), prepare, 0)
        except UserError as error:
            raise UserError(f"the held-out text (documents: {self.eval_store.documents}): {error}; or change data.holdout") from error


def cache_folder(config: Config, workdir: str | os.PathLike) -> pathlib.Path:
    """Where token stores, trained tokenizers and file digests are kept."""
    return pathlib.Path(os.path.expanduser(config.cache_dir)) if config.cache_dir else pathlib.Path(workdir) / "cache"


def identify(config: Config, source: ModuleType, source_config: Any, workdir: str | os.PathLike) -> dict:
    """`source.fingerprint`, with the digests of unchanged files taken from the cache."""
    digests = digest.Digests(cache_folder(config, workdir) / "digests.json")
    found = source.fingerprint(source_config, digests)
    try:
        digests.save()
    except OSError as e:
        # A shared cache may be read-only; what is lost is time.
        say(f"file digests are not kept, the files are read again next time: {e}")
    return found


def tokenizer(config: Config, source: ModuleType, source_config: Any, kind: ModuleType, kind_config: Any,
              workdir: str | os.PathLike) -> Tokenizer:
    """`kind.build` on the documents that are not held out; one that learned is kept in the cache."""
    made_from = [identify(config, source, source_config, workdir), config.holdout, kind.__name__, repr(kind_config)]
    kept = cache_folder(config, workdir) / f"tokenizer-{digest.of_json(made_from)[:16]}.json"
    # A tokenizer read from a file is read again: the file may have changed.
    learned = getattr(kind, "LEARNS", False)
    if learned and kept.exists():
        try:
            return from_json(kept.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise UserError(f"the tokenizer kept in {kept} cannot be read; delete the file and rerun to "
                            "train it again") from e
    made = kind.build(kind_config, lambda: store.training_side(source.documents(source_config), config.holdout))
    if learned:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, made.to_json())
    return made


def blank(config: Config, objective: Any = None) -> Rows:
    """One row as the config's plan would make it, without a text: what an objective turns into a batch."""
    plan = Texts if hasattr(objective, "sizes") else PLANS[config.packing]
    return plan.blank(config.seq_len, **({"source_len": config.size_source} if plan in (Texts, Pairs) else {}))


def build(config: Config, source: ModuleType, source_config: Any, made: Tokenizer,
          workdir: str | os.PathLike, objective: Any = None) -> Corpus:
    """Tokenize the source, or open what was tokenized before, and lay out its rows. Raises UserError.

    objective: the config of one that makes sources and targets of texts, which has `sizes` (data/texts.py) and
    `check(vocabulary, longest)`, for a UserError where it cannot make them of a text of so many tokens.
    """
    identity = identify(config, source, source_config, workdir)

    plan, pairs = PLANS[config.packing], getattr(source_config, "pairs", False)
    if pairs != (plan is Pairs):
        raise UserError(f"data.packing={config.packing!r} and the source yields {'pairs' if pairs else 'texts'}: " + (
            "set data.packing to 'pairs'" if pairs else "take source=parallel, or set source.target_field"))
    sentences = config.sentences if plan is Stretches else ""

    def side(which: str) -> store.Store:
        return store.build(cache_folder(config, workdir), lambda: source.documents(source_config), identity, made,
                           config.holdout, which, identity.get("text_bytes", 0), config.verify, sentences, pairs)

    train_store, eval_store = side("train"), None
    if config.holdout:
        eval_store = side("eval")
        if config.eval_documents:
            eval_store = eval_store.head(config.eval_documents)
    fields = {"source_len": config.size_source, "cut": config.cut_pairs} if pairs else {}
    sizes = getattr(objective, "sizes", None)
    if sizes:
        plan, fields = Texts, {"source_len": config.size_source, "cut": config.packing == "windows"}
    given = {"sizes": sizes} if sizes else {}
    # The last row of a training stream that is not full would weigh a few tokens like a whole row.
    train = plan(train_store, config.seq_len, **fields, **given, **({"drop_last": True} if issubclass(plan, Windows) else {}))
    fingerprint = {
        "source": identity, "tokenizer": made.fingerprint, "seq_len": config.seq_len, "holdout": config.holdout,
        "packing": config.packing, "shuffle": config.shuffle, "eval_documents": config.eval_documents,
        "train_rows": len(train), "train_tokens": len(train_store.tokens)} | ({"sentences": sentences} if sentences else {}) | fields
    held_out = plan(eval_store, config.seq_len, **fields, **given) if eval_store else None
    if sizes:
        objective.check(made.vocabulary, max(rows.longest for rows in (train, held_out) if rows))
    return Corpus(train, held_out, train_store, eval_store, fingerprint)
