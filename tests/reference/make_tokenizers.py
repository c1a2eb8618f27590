# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Writes tokenizers.json: the ids that transformers' BertTokenizerFast gives. Run it where transformers is installed."""
import json
import pathlib

import transformers

from jaxlm.data.tokenizers import wordpiece
from tests.data.tricky import CORPUS, TEXTS


def main() -> None:
    made = wordpiece.build(wordpiece.Config(500, lowercase=False), lambda: iter([*CORPUS, *(text.lower() for text in CORPUS)]))
    vocab = json.loads(made.to_hf_json())["model"]["vocab"]
    cases = {}
    for casing in ("cased", "uncased"):
        tokenizer = transformers.BertTokenizerFast(vocab=vocab, do_lower_case=casing == "uncased")
        cases[casing] = []
        for first, second in zip(TEXTS, [text or "the" for text in TEXTS[3:] + TEXTS[:3]]):
            found = tokenizer(first, second, truncation="longest_first", max_length=40, split_special_tokens=True)
            cases[casing].append([first, second, found["input_ids"], found["token_type_ids"]])
    path = pathlib.Path(__file__).with_name("tokenizers.json")
    path.write_text(json.dumps({"vocab": sorted(vocab, key=vocab.get), "cases": cases}))


if __name__ == "__main__":
    main()
