# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""`jaxlm generate` without --choice and --score: what follows each prompt or answers each source, as it comes or in rows."""
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlm.cli import prompts
from jaxlm.core.log import Progress, say
from jaxlm.generate import text as texts


@dataclasses.dataclass(frozen=True)
class Writer:
    """A decoder with all that one answer needs; `source`: it reads what it is asked, and the answer is not a continuation of it."""

    decoder: Any
    params: Any
    tokenizer: Any
    settings: Any
    source: bool

    def write(self, asked: Sequence[Any], names: Sequence[str] = (), show: Callable[[int, str], None] | None = None,
              done: Callable[[int], None] | None = None) -> list[texts.Result]:
        """One result for each that is asked, n_best of beams. A blank source has nothing to read: its answer is empty, so that the
        lines behind it stay those of their sources."""
        kept = [i for i, one in enumerate(asked) if not self.blank(one)]
        begun = {"sources" if self.source else "prompts": [asked[i] for i in kept]}
        found = iter(texts.generate(None, self.params, self.tokenizer, config=self.settings, on_text=show, decoder=self.decoder, on_done=done,
                                    names=[names[i] for i in kept] if names else (), rows=kept, **begun) if kept else [])
        beams = self.settings.beams > 1
        none = lambda one: texts.Result("", "", np.zeros(0, np.int32), np.zeros(0, np.float32), "blank", 0.0 if beams else None, one)
        return [none(one) if self.blank(one) else next(found) for one in asked for _ in range(self.settings.n_best if beams else 1)]

    def blank(self, one: Any) -> bool:
        return self.source and isinstance(one, str) and not one.strip()

    def converse(self, chat: bool, system: str) -> None:
        """Answers what a person types as it comes; as a chat, all of it is one conversation."""
        history = [{"role": "system", "content": system}] if system else []
        for line in prompts.typed():
            history.append({"role": "user", "content": line})
            answer = self.write([self.tokenizer.encode_chat(history) if chat else line], show=_print)[0]
            history.append({"role": "assistant", "content": answer.text})
            print()

    def answer(self, given: list[tuple[str, str]], asked: Sequence[Any], chat: bool, as_json: bool, path: str) -> None:
        """Prints or writes what comes of the prompts `given` (where they are from, and what they say), of which `asked` are the chats."""
        names, said = [where for where, _ in given], [text for _, text in given]
        if len(given) == 1 and not (as_json or path or self.settings.beams > 1):
            print("" if chat or self.source else said[0], end="", flush=True)
            self.write(asked, names, _print)
            print()
            return
        if empty := sum(map(self.blank, asked)):
            say(f"{empty} of {len(asked)} sources are blank and have blank answers: each line stays that of its source")
        with Progress(len(asked) - empty, "generating", "prompts") as bar:
            results = self.write(asked, names, done=bar.update)
        said = [text for text in said for _ in range(self.settings.n_best)] if self.settings.beams > 1 else said
        row = lambda prompt, r: {prompts.key(self.source): prompt, "text": r.text, "finished_by": r.finished_by, "logprob": float(r.logprobs.sum()),
                                 "tokens": len(r.tokens)} | ({} if r.score is None else {"score": r.score})
        lines = [prompts.one_line(r.text) if self.source else f"{'' if chat else prompt}{r.text}\n"
                 for prompt, r in zip(said, results, strict=True)]
        prompts.show(list(map(row, said, results)), lines, as_json, path)


def _print(_: int, piece: str) -> None:
    print(piece, end="", flush=True)
