# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""`jaxlm generate --choice` and `--score`: how probable given texts are, after a prompt or as targets of a source."""
import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxlm.cli import prompts
from jaxlm.generate import score

Found = tuple[list[dict[str, Any]], list[str]]  # rows of JSON lines, and the same as lines to read


@dataclasses.dataclass(frozen=True)
class Judge:
    """A scorer with all that it needs. What is given is where it is from, and what it says."""

    scorer: score.Scorer
    params: Any
    tokenizer: Any
    settings: Any

    @property
    def source(self) -> bool:
        """The model reads a source."""
        return self.scorer.limits.source

    def choices(self, given: list[tuple[str, str]], asked: Sequence[Any], answers: list[str]) -> Found:
        """Which of the answers follows each prompt; `asked` are the prompts given, as chats where they are."""
        begun = dict(prompts=(), sources=asked) if self.source else dict(prompts=asked)
        found = score.choose(self.scorer, self.params, self.tokenizer, choices=answers, config=self.settings,
                             names=[where for where, _ in given], **begun)
        both = [(prompt, best) for (_, prompt), best in zip(given, found, strict=True)]
        rows = [{prompts.key(self.source): prompt, "choice": best[0].text, "choices": list(map(vars, best))} for prompt, best in both]
        before = lambda prompt: prompt + "\t" if self.source else prompt
        return rows, [f"{c.logprob:.4f}\t{c.probability:.1%}\t{before(prompt)}{c.text}" for prompt, best in both for c in best]

    def scores(self, given: list[tuple[str, str]], targets: list[tuple[str, str]]) -> Found:
        """How probable each text given is, or each target of the sources given."""
        names, texts = ([one[i] for one in targets or given] for i in (0, 1))
        read = dict(sources=[text for _, text in given], source_names=[where for where, _ in given]) if targets else {}
        found = score.score(self.scorer, self.params, self.tokenizer, texts, self.settings, names=names, **read)
        rows = [{"text": s.text, "logprob": s.logprob, "tokens": [self.tokenizer.piece(int(i)) for i in s.tokens],
                 "logprobs": s.logprobs.tolist()} for s in found]
        if targets:
            rows = [{prompts.key(True): source, **row} for (_, source), row in zip(given, rows, strict=True)]
        return rows, [f"{s.logprob:.4f}\t{s.text}" for s in found]
