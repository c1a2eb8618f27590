# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""How text is continued: every setting of generation, and the part of them that a program is compiled for."""
import dataclasses
import math

from jaxlm.core.errors import nearest
from jaxlm.ops.penalties import Penalties

EARLY = ("false", "true", "never")


@dataclasses.dataclass(frozen=True)
class Config:
    """How text is continued."""

    max_new_tokens: int = 64  # at most, for each prompt
    min_new_tokens: int = 0  # before them, end-of-text is not drawn
    temperature: float = 0.8  # 0 = always the most probable token
    top_k: int = 0  # draw among this many most probable tokens; 0 = all
    top_p: float = 1.0  # draw among the smallest set of at least this mass; 1 = all
    min_p: float = 0.0  # draw among those at least this many times as probable as the most probable; 0 = all
    typical_p: float = 1.0  # draw among the set of this mass whose surprise is nearest to the entropy; 1 = all
    repetition_penalty: float = 1.0  # above 1: tokens seen, prompt included, become less likely
    presence_penalty: float = 0.0  # subtracted from the logit of a token that was generated
    frequency_penalty: float = 0.0  # subtracted for each time that it was
    no_repeat_ngram: int = 0  # no run of this many tokens comes twice, prompt included; 0 = off
    bad_words: tuple[str, ...] = ()  # texts that are never generated, as the tokens that they are on their own
    suppress: tuple[int, ...] = ()  # ids of tokens that are never generated: of an imported Marian its <pad>
    forced_bos: int = -1  # id of the token that every text begins with, unless its beginning is given: BART's <s>, a language; -1 = none
    stop: tuple[str, ...] = ()  # a continuation ends before the first of these texts
    stop_at_eot: bool = True  # a row ends at the end-of-text token
    fill: bool = False  # of a source's blanks, <extra_id_0> and so on (T5): the text is the source with them filled in
    beams: int = 1  # above 1: beam search, which draws nothing
    n_best: int = 1  # continuations for each prompt, of the beams
    length_penalty: float = 1.0  # beams are ranked by log-probability / length ** this
    early_stopping: str = "false"  # beams, as in transformers: true = as soon as there are enough, never = no guess
    speculate: int = 4  # tokens that a draft model, where there is one, writes ahead
    seed: int = 0
    prompt_bucket: int = 16  # the shortest padded prompt; longer ones double it
    chunk: int = 8  # tokens computed between two reports when streaming
    batch: int = 32  # prompts decoded together

    def problems(self) -> list[str]:
        out = [f"{name} is {getattr(self, name)}: it must be 1 or more"
               for name in ("max_new_tokens", "prompt_bucket", "chunk", "batch", "beams", "n_best", "speculate")
               if getattr(self, name) < 1]
        out += [f"{name} is {getattr(self, name)}: it must be 0 (off) or more"
                for name in ("min_new_tokens", "no_repeat_ngram") if getattr(self, name) < 0]
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            out.append(f"temperature is {self.temperature}: it must be 0 (greedy) or more")
        if self.top_k < 0:
            out.append(f"top_k is {self.top_k}: it must be 0 (all tokens) or more")
        out += [f"{name} is {getattr(self, name)}: it must be above 0 and at most 1 (all tokens)"
                for name in ("top_p", "typical_p") if not 0 < getattr(self, name) <= 1]
        if not 0 <= self.min_p <= 1:
            out.append(f"min_p is {self.min_p}: it must be from 0 (all tokens) to 1")
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            out.append(f"repetition_penalty is {self.repetition_penalty}: it must be above 0 (1 = off)")
        out += [f"{name} is {getattr(self, name)}: it must be a number"
                for name in ("presence_penalty", "frequency_penalty", "length_penalty") if not math.isfinite(getattr(self, name))]
        for name in ("stop", "bad_words"):
            texts = getattr(self, name)
            if not isinstance(texts, (tuple, list)) or not all(isinstance(text, str) for text in texts):
                out.append(f"{name} is {texts!r}: it must be texts in parentheses, as in ('one','two')")
            elif not all(texts):
                out.append(f"{name} has a text of zero length, which is everywhere: take it out")
        if not isinstance(self.suppress, (tuple, list)) or not all(isinstance(i, int) and i >= 0 for i in self.suppress):
            out.append(f"suppress is {self.suppress!r}: it must be ids of tokens in parentheses, as in (1,2)")
        if self.forced_bos < -1:
            out.append(f"forced_bos is {self.forced_bos}: it must be the id of a token, or -1 (none)")
        if not 0 <= self.seed < 2**32:
            out.append(f"seed is {self.seed}: it must be from 0 to {2**32 - 1}")
        if self.min_new_tokens > self.max_new_tokens:
            out.append(f"min_new_tokens is {self.min_new_tokens}, more than max_new_tokens {self.max_new_tokens}")
        return out + self._beam_problems()

    def _beam_problems(self) -> list[str]:
        out = []
        if self.early_stopping not in EARLY:
            out.append(f"early_stopping is {self.early_stopping!r}{nearest(self.early_stopping, EARLY)}: it must be one of "
                       f"{', '.join(EARLY)}")
        if self.n_best > self.beams:
            out.append(f"n_best is {self.n_best} and beams {self.beams}: no more come out than there are beams")
        if self.beams > 1 and self.temperature > 0:
            out.append(f"beams is {self.beams} and temperature {self.temperature}: beam search draws nothing, set temperature to 0")
        if self.beams > 1 and self.stop:
            out.append("beams end at end-of-text only: leave out stop, or set beams to 1")
        return out


@dataclasses.dataclass(frozen=True)
class Draw:
    """What a decoding program is compiled for."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    penalties: Penalties
    stop_at_eot: bool
    speculate: int  # 0 without a draft


def draw_of(config: Config, bad_words: tuple[tuple[int, ...], ...] = (), drafted: bool = False) -> Draw:
    """The part of the settings that is compiled in; `bad_words` are the config's as token ids."""
    if config.bad_words and not bad_words:
        raise ValueError("bad_words are texts: give their token ids too")
    c = config
    never = (*bad_words, *((i,) for i in c.suppress))
    penalties = Penalties(c.repetition_penalty, c.presence_penalty, c.frequency_penalty, c.no_repeat_ngram, never, c.min_new_tokens,
                          c.forced_bos)
    return Draw(c.temperature, c.top_k, c.top_p, c.min_p, c.typical_p, penalties, c.stop_at_eot,
                c.speculate if drafted else 0)
