# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A run goes on as the run it was: every field of every component, its text and its tokenizer, but for what is listed as free."""
import pytest

from jaxlm import build
from jaxlm.cli import resume
from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import bpe, byte

TEXT = {"source": {"files": "abc"}, "seq_len": 32}
TOKENIZER = byte.build(byte.Config(), lambda: iter(()))


class Kept:
    """One checkpoint, with what is stored beside its state."""

    def __init__(self, config):
        self.stored = {"config": build.to_json(config), "tokenizer": TOKENIZER.to_json(), "data": TEXT}

    def steps(self):
        return [7]

    def meta(self, step):
        return self.stored


def fields(config):
    """(section, field or "", value) of everything that is set."""
    for name, value in config.items():
        yield from ((name, field, x) for field, x in value.items() if field != "name") if hasattr(value, "items") else [(name, "", value)]


def changed(value):
    if isinstance(value, bool):
        return not value
    return value + ("other",) if isinstance(value, tuple) else value + "x" if isinstance(value, str) else value + 1


# Optimizer, schedule and the rest of what is not named by the parts that are built; those are all there are.
PAGES = [dict(model=model) for model in build.names("model")] + [dict(source=source) for source in build.names("source")] + \
    [dict(objective=objective) for objective in build.names("objective")] + [dict(tokenizer=name) for name in build.names("tokenizer")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "-".join(f"{k}-{v}" for k, v in page.items()))
def test_every_field_but_the_free_ones(page):
    """Fails if a field is not looked at: `differences(...)[1:]` in resume.check, or "optimizer." in FREE."""
    kept, free = Kept(build.defaults(**page)), []
    for section, field, value in fields(build.defaults(**page)):
        config = build.defaults(**page)
        with config.unlocked(), config.ignore_type():
            if field:
                config[section][field] = changed(value)
            else:
                config[section] = changed(value)
        name = f"{section}.{field}" if field else section
        try:
            resume.check(config, TOKENIZER, TEXT, kept)
            free.append(name)
        except UserError as error:
            told = "schedule.total" if name == "train.steps" else name  # where the learning rate ends, in the default schedule
            assert f"  {told}: " in str(error) and "allow_changes=true" in str(error)
            config.train.allow_changes = True
            resume.check(config, TOKENIZER, TEXT, kept)
    # What a run computes never hangs on these; anything else that is let through has to be put here by hand.
    rhythm = {"steps", "accumulate", "log_every", "max_skipped", "flights", "explode", "profile_at", "profile_steps", "allow_changes",
              "tensorboard", "picture", "baseline", "sample", "sample_tokens",
              "compiler_options"}  # which are compared by their values in force, and a change is told: test_errors.py
    allowed = {f"train.{name}" for name in rhythm} | {"rules", "data.cache_dir", "data.prefetch", "data.verify", "model.scan", "model.remat",
                                                     "model.attention_backend", "objective.chunks"}
    whole = ("eval.", "checkpoints.", "generate.", "mesh.", "table.", "start.")
    assert [name for name in free if name not in allowed and not name.startswith(whole)] == []


@pytest.mark.parametrize("what,words", [("text", "the text is not what"), ("tokenizer", "the tokenizer is not the checkpoint's")])
def test_text_and_tokenizer(what, words):
    """Fails if either is not looked at: drop its two lines from resume.check."""
    config = build.defaults()
    other = bpe.build(bpe.Config(vocab_size=300), lambda: iter(["some text, some more text"] * 20)) if what == "tokenizer" else TOKENIZER
    with pytest.raises(UserError, match=words):
        resume.check(config, other, {**TEXT, "seq_len": 64} if what == "text" else TEXT, Kept(config))


@pytest.mark.parametrize("model,field,value", [("gpt", "residual_dropout", 0.1), ("llama", "experts", 4)])
def test_micro_batches_that_differ(model, field, value):
    """Each micro-batch draws its own dropout, and balances its own experts. Fails if their number is free: `own = False` in resume.check."""
    config = build.defaults(model=model)
    config.model[field] = value
    kept = Kept(config)
    config.train.accumulate = 2
    with pytest.raises(UserError, match="train.accumulate: 1 -> 2"):
        resume.check(config, TOKENIZER, TEXT, kept)


@pytest.mark.parametrize("name,refused", [("cosine", True), ("linear", True), ("wsd", True), ("rsqrt", False), ("constant", False)])
def test_a_longer_run(name, refused):
    """More steps are another learning rate where it ends with the run: refused, unless the old end is written down. Fails if the
    ends are not compared: `ends = [0, 0]` in resume.check, or written down they are: drop "schedule.total" there."""
    config = build.defaults()
    config.schedule.name, config.train.steps = name, 200
    kept = Kept(config)
    config.train.steps = 300
    if refused:
        with pytest.raises(UserError, match="schedule.total: 200 -> 300, .* schedule.total=200 keeps it"):
            resume.check(config, TOKENIZER, TEXT, kept)
    config.schedule.total = 200
    resume.check(config, TOKENIZER, TEXT, kept)


def test_other_components():
    """A model of another name is another run, whatever its fields. Fails as the first."""
    with pytest.raises(UserError, match="model.name: 'gpt' -> 'llama'"):
        resume.check(build.defaults(model="llama"), TOKENIZER, TEXT, Kept(build.defaults()))
