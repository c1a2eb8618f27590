# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""`jaxlm generate --choice` and `--score`: how probable given texts are, after a prompt or as targets of a source."""
from collections.abc import Sequence
from typing import Any

from jaxlm.cli import prompts
from jaxlm.generate import score

Found = tuple[list[dict[str, Any]], list[str]]  # rows of JSON lines, and the same as lines to read


def choices(scorer: score.Scorer, params: Any, tokenizer: Any, given: list[str], asked: Sequence[Any], answers: list[str],
            settings: Any) -> Found:
    """Which of the answers follows each prompt; `asked` are the prompts given, as chats where they are."""
    source = scorer.limits.source
    begun = dict(sources=asked) if source else dict(prompts=asked)
    found = list(zip(given, score.choose(scorer, params, tokenizer, choices=answers, config=settings, **begun), strict=True))
    rows = [{prompts.key(source): prompt, "choice": best[0].text, "choices": list(map(vars, best))} for prompt, best in found]
    before = lambda prompt: prompt + "\t" if source else prompt
    return rows, [f"{c.logprob:.4f}\t{c.probability:.1%}\t{before(prompt)}{c.text}" for prompt, best in found for c in best]


def scores(scorer: score.Scorer, params: Any, tokenizer: Any, given: list[str], targets: list[str], settings: Any) -> Found:
    """How probable each text given is, or each target of the sources given."""
    said = dict(texts=targets, sources=given) if scorer.limits.source else dict(texts=given)
    found = score.score(scorer, params, tokenizer, config=settings, **said)
    rows = [{"text": s.text, "logprob": s.logprob, "tokens": [tokenizer.decode([i]) for i in s.tokens],
             "logprobs": s.logprobs.tolist()} for s in found]
    if targets:
        rows = [{prompts.key(True): source, **row} for source, row in zip(given, rows, strict=True)]
    return rows, [f"{s.logprob:.4f}\t{s.text}" for s in found]
