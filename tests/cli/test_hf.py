# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm hf: a folder becomes a run that every command opens, and a run a folder that Hugging Face reads; bad ones are named."""
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
import tokenizers

from jaxlm.checkpoints import safetensors
from jaxlm.checkpoints.safetensors import FILE, INDEX, Tensor, Weights
from jaxlm.cli import hf as command
from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers.hf_files import hf_files
from tests import tiny
from tests.reference import test_reference as references

WORDS = [f"w{i}" for i in range(20)]
HAS_TORCH = bool(importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"))


def write_tokenizer(path: pathlib.Path, words=WORDS, names=("<pad>", "<eos>", "<unk>")) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: i for i, name in enumerate([*names, *words])}, unk_token=names[-1]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(list(names))
    made.save(str(path / "tokenizer.json"))


def write_case(path: pathlib.Path, name: str, dtype="float32", shard_bytes=10**9, **changes) -> pathlib.Path:
    """The folder of a stored reference, as save_pretrained leaves it; **changes to its config.json."""
    case = references.stored(name, 0)
    hf, _, tensors = references.model_of(case)
    kind = safetensors.BY_NAME[dtype]
    ready = {key: Tensor(x.shape, kind, lambda x=x: x.astype(kind)) for key, x in tensors.items()}
    texts = {"config.json": json.dumps(hf | changes), "generation_config.json": json.dumps({"eos_token_id": [1, 2], "top_p": 0.9}),
             "tokenizer_config.json": json.dumps({"eos_token": "<eos>", "chat_template": "{{ 1 }}"})}
    safetensors.write_folder(path, ready, texts, shard_bytes)
    write_tokenizer(path)
    return path


def hf(*args, **options):
    return tiny.command("hf", *map(str, args), **options)


def same_bits(first: pathlib.Path, second: pathlib.Path) -> None:
    a, b = Weights(first), Weights(second)
    assert list(sorted(a)) == list(sorted(b))
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        assert np.array_equal(np.asarray(a[name]).view(np.uint8), np.asarray(b[name]).view(np.uint8)), name


def test_there_and_back_and_used(tmp_path):
    """import -> export is bit-equal, files of the tokenizer included; the run generates, evaluates, and is trained on.

    Fails if a layer is read into another one's place, a file of the tokenizer is left behind, or weights alone are
    taken for a damaged checkpoint.
    """
    source = write_case(tmp_path / "llama", "llama", shard_bytes=8000)
    run = tmp_path / "run"
    done = hf("import", source, f"--workdir={run}")
    assert done.returncode == 0, done.stderr
    assert "llama -> llama" in done.stdout
    done = hf("export", tmp_path / "out", f"--workdir={run}", "--shard_gb=0.000008")
    assert done.returncode == 0, done.stderr
    same_bits(source, tmp_path / "out")
    assert (tmp_path / "out" / INDEX).exists()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_text() == (source / name).read_text(), name
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "out"))
    assert {key: after[key] for key in before if key not in ("dtype", "torch_dtype")} == {k: v for k, v in before.items() if k != "dtype"}
    done = tiny.command("generate", f"--workdir={run}", "--prompt=w1 w2", "--json", "--config.generate.max_new_tokens=3")
    assert done.returncode == 0 and json.loads(done.stdout)["tokens"] <= 3, done.stderr
    text = tmp_path / "text"
    text.mkdir()
    draw = np.random.default_rng(0)
    for i in range(60):
        (text / f"{i}.txt").write_text(" ".join(draw.choice(WORDS, 30)))
    small = [f"--config.source.path={text}", "--config.data.holdout=0.3", "--config.data.seq_len=16", "--config.train.batch_size=4",
             "--config.eval.batches=1", f"--config.data.cache_dir={tmp_path / 'cache'}", "--config.train.steps=2",
             "--config.train.sample_tokens=0", "--config.train.baseline=", "--config.schedule.warmup=1", "--config.train.log_every=1"]
    done = tiny.command("evaluate", f"--workdir={run}", *small)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert first["step"] == 0
    trained = tiny.command("train", f"--config={run}/config.json", f"--workdir={run}", *small)
    assert trained.returncode == 0, trained.stderr
    assert "from step 0 in" in trained.stderr and " 0 fresh" in trained.stderr
    assert json.loads(tiny.command("evaluate", f"--workdir={run}", *small).stdout)["step"] == 2
    done = hf("export", tmp_path / "trained", f"--workdir={run}", "--dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert {str(x.dtype) for x in Weights(tmp_path / "trained").values()} == {"bfloat16"}
    assert json.loads((tmp_path / "trained" / "config.json").read_text())["dtype"] == "bfloat16"
    done = hf("import", source, f"--workdir={run}")
    assert done.returncode == 2 and "is there already" in done.stderr


@pytest.mark.skipif(not HAS_TORCH, reason="torch and transformers are not installed")
def test_transformers_loads_what_is_written(tmp_path):
    """A model of ours, never imported, with noise on every parameter: transformers agrees with it.

    Fails if the config leaves out what a reader's default would be put for (rope_theta, the end token).
    """
    import torch
    import transformers

    from jaxlm.checkpoints.hf import families, folder
    from jaxlm.core import tree
    from jaxlm.models import gpt, llama

    for name, module, config in (
        ("gpt", gpt, gpt.Config(vocab_size=41, max_len=48, layers=2, heads=3, embed=24, mlp=40)),
        ("llama", llama, llama.Config(vocab_size=41, max_len=48, layers=3, heads=4, kv_heads=2, embed=24, mlp=40, window=7,
                                      rope_theta=1234.0, qk_norm=True, window_pattern="GLL", norm_eps=1e-3)),
    ):
        model, draw = module.build(config), np.random.default_rng(0)
        params = jax.tree.map(lambda x: (draw.normal(size=x.shape) * 0.3 + (x.ndim == 1)).astype(np.float32), model.abstract)
        written = families.config_to_hf(name, config, tree.paths(params))
        folder.write(tmp_path / name, params, written | {"eos_token_id": 40}, {})
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, attn_implementation="eager").eval()
        tokens = draw.integers(0, 41, (2, 30))
        with torch.no_grad():
            expected = theirs(torch.tensor(tokens)).logits.numpy()
        found = np.asarray(model.apply(params, {"tokens": tokens.astype(np.int32)}).logits)
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        assert sum(p.numel() for p in theirs.parameters()) == tree.size(params)
        assert theirs.config.eos_token_id == 40


@pytest.mark.skipif(not HAS_TORCH, reason="torch and transformers are not installed")
def test_transformers_reads_our_tokenizer(tmp_path):
    """Ids, text and the end token are the same. Fails without tokenizer_config.json: the class of a llama would be taken."""
    import transformers

    from jaxlm.data.tokenizers import bpe, byte

    for name, ours in (("byte", byte.build(byte.Config())), ("bpe", bpe.build(bpe.Config(vocab_size=280), lambda: iter(["one two"] * 9)))):
        (tmp_path / name).mkdir()
        for file, text in ({"config.json": json.dumps({"model_type": "llama"})} | hf_files(ours)).items():
            (tmp_path / name / file).write_text(text)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        text = "one two, thrée\n  four"
        assert theirs(text)["input_ids"] == ours.encode(text).tolist()
        assert theirs.decode(ours.encode(text)) == text
        assert theirs.eos_token_id == ours.eot and len(theirs) == ours.vocab_size


@pytest.mark.parametrize("name", ["llama", "bert", "albert", "t5"])
def test_check(tmp_path, name):
    """`check` says so of a whole folder, and names the layer where a reference is another one's: here ours is altered."""
    source = write_case(tmp_path / "m", name, "bfloat16")
    done = hf("check", source)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "every tensor comes back bit for bit" in done.stdout
    if not HAS_TORCH:
        return
    assert "all within 0.0001" in done.stdout
    # Our reading of layer 1 alone is bent: what the folder holds stays the same.
    bend = ("import jaxlm.checkpoints.hf.compare as c; import jax; f = c.ours\n"
            "def bent(apply, params, batch):\n"
            "    params['blocks']['mlp']['up']['kernel'] = params['blocks']['mlp']['up']['kernel'].at[1].multiply(1.01)\n"
            "    return f(apply, params, batch)\n"
            "c.ours = bent\n")
    if name in ("llama", "bert"):
        done = hf("check", source, code=bend)
        assert done.returncode == 1 and "DIFFERENT, first in layer 1" in done.stdout, done.stdout + done.stderr


def broken(path, **edit):
    """The one file of a folder with tensors edited: None takes one away."""
    held = {name: np.array(x) for name, x in Weights(path).items()}
    for name, value in edit.items():
        if value is None:
            del held[name]
        else:
            held[name] = value(held.get(name))
    (path / FILE).unlink()
    safetensors.write(path / FILE, {name: Tensor(x.shape, x.dtype, lambda x=x: x) for name, x in held.items()})


BAD = {
    "missing": (lambda p: broken(p, **{"model.layers.1.mlp.up_proj.weight": None}), "not in the file: model.layers.1.mlp.up_proj.weight"),
    "extra": (lambda p: broken(p, **{"model.layers.0.self_attn.sinks": lambda _: np.zeros(3, np.float32)}),
              "in the file but not in this model: model.layers.0.self_attn.sinks"),
    "shape": (lambda p: broken(p, **{"model.norm.weight": lambda x: x[:-1]}), r"model.norm.weight is \[19\] and should be \[20\]"),
    "cut": (lambda p: (p / FILE).write_bytes((p / FILE).read_bytes()[:-4]), r"is cut off, \S+ is not whole; copy or download it again"),
    "architecture": (lambda p: edit_config(p, model_type="lama"), "model_type 'lama' cannot be read, did you mean 'llama'"),
    "words": (lambda p: write_tokenizer(p, WORDS + [f"x{i}" for i in range(30)]),
              r"the tokenizer has 53 tokens and model.embed_tokens.weight of \S+ 37 rows"),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), "tokenizer.path"),
    "no config": (lambda p: (p / "config.json").unlink(), "holds no config.json"),
}


def edit_config(path, **changes):
    text = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(text | changes))


@pytest.mark.parametrize("what", BAD)
def test_bad_folders(tmp_path, what):
    """One error that names the tensor and the way out, and no folder left behind: fails if new_folder keeps its own."""
    source = write_case(tmp_path / "m", "llama")
    edit, message = BAD[what]
    edit(source)
    with tiny.workdir(tmp_path / "run"), pytest.raises(UserError, match=message):
        command.main(command.page("import", source), "import", source)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_words_on_the_command_line(tmp_path):
    for args, message in ((["bring", "x"], "there is no 'bring'"), (["import"], "the folder to read or to write is missing"),
                          (["import", "a", "b", "--workdir=c"], "what is 'b'"), (["import", tmp_path / "absent", "--workdir=c"], "holds no config.json")):
        done = hf(*args)
        assert done.returncode == 2 and message in done.stderr, (args, done.stderr)
