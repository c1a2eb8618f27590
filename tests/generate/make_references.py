# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What transformers generates with tiny random models and what its logits processors do, to compare ours with.

    python tests/generate/make_references.py        # writes references.npz beside this file

The models are those of tests/reference (their weights are stored there).
"""
import json
import pathlib

import numpy as np
import torch
import transformers
from transformers.generation import logits_process as theirs

HERE = pathlib.Path(__file__).parent
EOT, START, NEW, ROWS = 3, 2, 12, 50  # START begins the targets of encoder-decoders
MODELS = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "t5": "T5ForConditionalGeneration",
          "bart": "BartForConditionalGeneration", "marian": "MarianMTModel"}
# name: what generate is called with.
SEARCHES = {
    "greedy": dict(),
    "greedy_penalties": dict(repetition_penalty=1.4, no_repeat_ngram_size=2, bad_words_ids=[[5], [7, 9], [11, 2, 4]], min_new_tokens=4),
    "beam4": dict(num_beams=4, num_return_sequences=4),
    "beam4_early": dict(num_beams=4, num_return_sequences=2, early_stopping=True, length_penalty=0.6),
    "beam4_never": dict(num_beams=4, num_return_sequences=2, early_stopping="never", length_penalty=2.0),
    "beam3_penalties": dict(num_beams=3, num_return_sequences=3, repetition_penalty=1.3, no_repeat_ngram_size=3, min_new_tokens=3),
    "beam4_forced": dict(num_beams=4, num_return_sequences=2, forced_bos_token_id=7, length_penalty=2.0),  # of encoder-decoders alone
}
# Each processor on random logits [B, V] after random tokens [B, S].
FILTERS = {
    "temperature": lambda: theirs.TemperatureLogitsWarper(0.7),
    "top_k": lambda: theirs.TopKLogitsWarper(5),
    "top_p": lambda: theirs.TopPLogitsWarper(0.8),
    "min_p": lambda: theirs.MinPLogitsWarper(0.1),
    "typical_p": lambda: theirs.TypicalLogitsWarper(0.7),
    "repetition": lambda: theirs.RepetitionPenaltyLogitsProcessor(1.7),
    "no_repeat_ngram_1": lambda: theirs.NoRepeatNGramLogitsProcessor(1),
    "no_repeat_ngram_2": lambda: theirs.NoRepeatNGramLogitsProcessor(2),
    "no_repeat_ngram_3": lambda: theirs.NoRepeatNGramLogitsProcessor(3),
    "bad_words": lambda: theirs.NoBadWordsLogitsProcessor([[EOT], [1], [2, 4], [0, 1, 2], [2, 2, 5]], eos_token_id=EOT),
    "min_new": lambda: theirs.MinNewTokensLengthLogitsProcessor(6, 4, EOT),
    "all": lambda: theirs.LogitsProcessorList([FILTERS[name]() for name in (
        "repetition", "no_repeat_ngram_3", "bad_words", "min_new", "temperature", "top_k", "top_p", "min_p", "typical_p")]),
}


def prompts(seed: int) -> list[np.ndarray]:
    """What decoders continue, and what encoder-decoders read."""
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 37, rng.integers(1, 16)) for _ in range(ROWS)]


def model(name: str, case: dict) -> torch.nn.Module:
    """The torch model with the weights of a stored case."""
    config = transformers.AutoConfig.for_model(**json.loads(str(case["config"])))
    net, at, state = getattr(transformers, MODELS[name])(config).eval(), 0, {}
    for key, shape in json.loads(str(case["shapes"])).items():
        size = int(np.prod(shape))
        state[key] = torch.tensor(case["weights"][at : at + size].reshape(shape).astype(np.float32) / 64)
        at += size
    assert not net.load_state_dict(state, strict=False).unexpected_keys
    # What the file leaves out is tied to what it holds, or computed.
    given = {net.state_dict()[key].data_ptr() for key in state}
    assert all(p.data_ptr() in given for p in net.parameters() if p.requires_grad)
    return net


def generated(name: str, case: dict, seed: int) -> dict[str, np.ndarray]:
    """search: int32 [ROWS * n, NEW] new tokens of every prompt or source, in one padded batch; and its scores.

    Where n-grams may not come twice, each prompt alone: transformers counts the padding as text that was said.
    """
    texts = prompts(seed)
    width = max(map(len, texts))
    ids, mask = np.full((ROWS, width), EOT), np.zeros((ROWS, width), np.int64)
    net = model(name, case)
    reads = net.config.is_encoder_decoder
    for row, text in enumerate(texts):
        at = slice(len(text)) if reads else slice(width - len(text), None)
        ids[row, at], mask[row, at] = text, 1
    # Without its cache, which transformers 5.23 makes with a decoder's layers as many as the encoder has.
    more = dict(decoder_start_token_id=START, use_cache=False) if reads else {}
    net.generation_config.forced_bos_token_id = net.generation_config.forced_eos_token_id = None
    call = lambda first=0, rows=slice(None), **settings: net.generate(
        torch.tensor(ids[rows, first:]), attention_mask=torch.tensor(mask[rows, first:]), do_sample=False, max_new_tokens=NEW,
        pad_token_id=EOT, bos_token_id=None, return_dict_in_generate=True, output_scores=True, **more, **settings)
    before = 1 if reads else width
    with torch.no_grad():
        free = call(eos_token_id=10**6).sequences[:, before:].numpy()
    # The end is the id that is said in the middle of about every third text, so that some end early and some do not.
    end = min(range(37), key=lambda i: abs((free[:, 2:] == i).any(axis=1).mean() - 0.35))
    out = {"end": np.int32(end)}
    for search, settings in SEARCHES.items():
        if "forced_bos_token_id" in settings and not reads:
            continue
        calls = [(0, slice(None))]
        if "no_repeat_ngram_size" in settings and not reads:
            calls = [(width - len(text), slice(row, row + 1)) for row, text in enumerate(texts)]
        with torch.no_grad():
            found = [call(first, rows, eos_token_id=end, **settings) for first, rows in calls]
        said = [one.sequences[:, before - first :].numpy().astype(np.int32) for one, (first, _) in zip(found, calls)]
        new = np.concatenate([np.pad(one, ((0, 0), (0, NEW - one.shape[1])), constant_values=EOT) for one in said])
        # Behind its end a text is padding in theirs and eot in ours.
        behind = np.cumsum(new == end, axis=1) - (new == end) > 0
        out[search] = np.where(behind, end, new)
        if "num_beams" in settings:
            out[search + "/scores"] = np.concatenate([one.sequences_scores.numpy() for one in found])
    return out


def filtered(seed: int) -> dict[str, np.ndarray]:
    """tokens, logits, and what each processor makes of them."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 6, (40, 9))
    logits = (rng.normal(size=(40, 17)) * 2).astype(np.float32)
    call = lambda make: make()(torch.tensor(tokens), torch.tensor(logits)).numpy()
    return {"tokens": tokens, "logits": logits} | {name: call(make) for name, make in FILTERS.items()}


def main() -> None:
    out = {f"filters/{seed}/{key}": value for seed in (0, 1) for key, value in filtered(seed).items()}
    for name in MODELS:
        if not (HERE.parent / "reference" / f"{name}.npz").exists():
            print(f"{name}: tests/reference has no weights of it")
            continue
        with np.load(HERE.parent / "reference" / f"{name}.npz") as file:
            case = {key.partition("/")[2]: file[key] for key in file.files if key.startswith("0/")}
        out |= {f"{name}/{key}": value for key, value in generated(name, case, 0).items()}
    np.savez_compressed(HERE / "references.npz", **out)


if __name__ == "__main__":
    main()
