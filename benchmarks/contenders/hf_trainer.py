# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Hugging Face Trainer on the library's own models, as its users set it up: autocast, fused AdamW, no evaluation."""
import os
import re

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset

from benchmarks import data
from benchmarks.clock import Absent, Clock
from benchmarks.contenders import torch_memory
from benchmarks.contenders.torch_memory import device_peak  # noqa: F401 - asked for by the job
from benchmarks.job import Job
from benchmarks.shapes import Shape


def model_of(s: Shape) -> transformers.PreTrainedModel:
    """The architecture, weights drawn by the library."""
    if s.family == "gpt":
        config = transformers.GPT2Config(
            vocab_size=s.vocab, n_positions=s.length, n_embd=s.embed, n_layer=s.layers, n_head=s.heads, n_inner=s.hidden,
            resid_pdrop=s.dropout, embd_pdrop=s.dropout, attn_pdrop=s.dropout, bos_token_id=0, eos_token_id=0, tie_word_embeddings=s.tied)
    elif s.family == "bert":
        config = transformers.BertConfig(
            vocab_size=s.vocab, max_position_embeddings=s.length, hidden_size=s.embed, num_hidden_layers=s.layers,
            num_attention_heads=s.heads, intermediate_size=s.hidden, hidden_dropout_prob=s.dropout, attention_probs_dropout_prob=s.dropout)
        return transformers.AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa")
    elif s.family == "t5":
        config = transformers.T5Config(
            vocab_size=s.vocab, d_model=s.embed, d_kv=s.head_dim, d_ff=s.hidden, num_layers=s.layers, num_heads=s.heads,
            dropout_rate=s.dropout, decoder_start_token_id=0, pad_token_id=0)
        return transformers.AutoModelForSeq2SeqLM.from_config(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=s.vocab, max_position_embeddings=s.length, hidden_size=s.embed, num_hidden_layers=s.layers,
            num_attention_heads=s.heads, num_key_value_heads=s.keys, intermediate_size=s.hidden, rms_norm_eps=1e-5,
            bos_token_id=0, eos_token_id=0, tie_word_embeddings=s.tied)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


TIED = re.compile(r"^lm_head\.weight$|^cls\.predictions\.decoder\.|embed_tokens\.weight$")


def load(model: transformers.PreTrainedModel, given: dict) -> None:
    missing, extra = model.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in given.items()}, strict=False)
    missing = [name for name in missing if not TIED.search(name)]
    if missing or extra:
        raise ValueError(f"the exported weights do not fit {type(model).__name__}: missing {missing[:3]}, left over {extra[:3]}")


def shifted(tokens, targets):
    # Already shifted: Trainer would otherwise predict one token fewer a row than the others.
    return {"input_ids": tokens, "labels": targets, "shift_labels": targets}


def masked(tokens, predict, targets, weights):
    labels = np.full_like(tokens, -100)
    labels[predict[weights > 0]] = targets[weights > 0]
    return {"input_ids": tokens, "labels": labels}


def pair(source, tokens, targets, weights):
    return {"input_ids": source, "labels": targets}


class Rows(Dataset):
    """The batches of the job row by row, for ever."""

    def __init__(self, job: Job):
        make = {"bert": masked, "t5": pair}.get(job.shape.family, shifted)
        rows = [make(*row) for batch in data.batches(job.path, job.shape) for row in zip(*batch)]
        self.rows = [{name: torch.from_numpy(x.astype("int64")) for name, x in row.items()} for row in rows]

    def __len__(self) -> int:
        return len(self.rows) * 100_000

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return self.rows[i % len(self.rows)]


class InOrder(transformers.Trainer):
    """Trainer, but for the order of rows, and its losses seen by the clock."""

    def __init__(self, *args, clock: Clock, **kwargs):
        super().__init__(*args, **kwargs)
        self.clock, self.last = clock, None

    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.seen = loss.detach()
        return loss


class Tick(transformers.TrainerCallback):
    """After each optimizer step: the loss of the one before, as for the others."""

    def __init__(self, clock: Clock):
        self.clock, self.trainer, self.last = clock, None, None

    def on_step_end(self, args, state, control, **kwargs):
        if self.last is not None:
            self.clock.tick(self.last.item())
        self.last = self.trainer.seen


def train(job: Job, clock: Clock) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    s = job.shape
    transformers.set_seed(0)
    model = model_of(s)
    if job.has_weights:
        load(model, data.weights(job.path))
    try:
        arguments = transformers.TrainingArguments(
            output_dir=job.scratch, per_device_train_batch_size=s.batch, max_steps=10**6, learning_rate=job.lr,
            lr_scheduler_type="constant", weight_decay=job.weight_decay, adam_beta1=job.b1, adam_beta2=job.b2, adam_epsilon=job.eps,
            max_grad_norm=job.clip, optim="adamw_torch_fused",
            bf16=job.dtype == "bfloat16", use_cpu=job.platform == "cpu", torch_compile=job.option["compile"],
            gradient_checkpointing=s.remat != "none", logging_steps=10**6, save_strategy="no", report_to=[], disable_tqdm=True,
            remove_unused_columns=False, dataloader_pin_memory=job.platform == "gpu")
    except ImportError as error:
        raise Absent(f"transformers {transformers.__version__}: {str(error).strip().splitlines()[0]}") from error
    tick = Tick(clock)
    trainer = InOrder(model, arguments, train_dataset=Rows(job), callbacks=[tick], clock=clock)
    tick.trainer = trainer
    clock.note(allocator=torch_memory.allocator())
    trainer.train()
