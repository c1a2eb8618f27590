# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""`jaxlm generate`: prompts from everywhere, JSON lines that are whole or absent, choices, scores, drafts, one clear error each."""
import gzip
import io
import json
import types

import pytest

from jaxlm.cli import prompts, train
from jaxlm.core.errors import UserError
from tests import tiny
from tests.cli.test_errors import tiny_page
from tests.test_configs import load

# Many commands in one process: [arguments, what is typed] each; prints a list of [standard output, error].
DRIVER = """
import contextlib, dataclasses, io, json, pathlib, sys
from absl import flags
from jaxlm import build
from jaxlm.cli import experiment, generate
from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import byte
out, open_run = [], experiment.open_run
for args, settings, typed in json.loads(sys.argv[2]):
    config = build.from_json((pathlib.Path(sys.argv[1]) / "config.json").read_text(), "the run's")
    config.update_from_flattened_dict({"generate." + key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["generate", "--workdir=" + sys.argv[1], *args])
    # The draft of this one command has another tokenizer.
    other = lambda given: byte.build(byte.Config(special_tokens=("<|x|>",) * (len(given) == 2)))
    opened = lambda *given: dataclasses.replace(open_run(*given), tokenizer=other(given))
    experiment.open_run = opened if settings.get("seed") == 77 else open_run
    sys.stdin = io.TextIOWrapper(io.BytesIO(typed.encode()))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            generate.main(config)
            out.append([said.getvalue(), ""])
        except UserError as error:
            out.append([said.getvalue(), str(error)])
print(json.dumps(out))
sys.exit()
"""
GREEDY = {"temperature": 0.0, "max_new_tokens": 8, "stop_at_eot": False}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run of two steps, and what the commands below said of it. It is its own draft: every token is accepted."""
    folder = tmp_path_factory.mktemp("generate")
    with tiny.workdir(folder / "run"):
        train.main(tiny_page(folder))
    (folder / "in.txt").write_text("the quick\nbrown\n")
    (folder / "in.jsonl").write_text('{"prompt": "the quick"}\n\n{"prompt": "brown"}\n')
    beams = {"temperature": 0.0, "max_new_tokens": 4, "beams": 2, "n_best": 2}
    commands = {
        "text": (["--prompt=the quick"], GREEDY, ""),
        "json": (["--prompt=the quick", "--prompt=brown", "--json"], GREEDY, ""),
        "file": ([f"--input={folder / 'in.txt'}", "--json"], GREEDY, ""),
        "jsonl": ([f"--input={folder / 'in.jsonl'}", f"--output={folder / 'out.jsonl'}"], GREEDY, ""),
        "stdin": (["--json"], GREEDY, "the quick\nbrown\n"),
        "stdin_field": (["--json", "--field=q"], GREEDY, '{"q": "the quick"}\n{"q": "brown"}\n'),
        "interactive": (["--interactive"], GREEDY, "the quick\nbrown\n"),
        "draft": (["--prompt=the quick", "--prompt=brown", "--json", f"--draft={folder / 'run'}"], GREEDY, ""),
        "beams": (["--prompt=the quick", "--json"], beams, ""),
        "choice": (["--prompt=the ", "--choice=fox", "--choice=dog", "--json"], {}, ""),
        "choice_text": (["--prompt=the ", "--choice=fox", "--choice=dog"], {}, ""),
        "score": (["--prompt=the fox", "--score", "--json"], {}, ""),
        "score_text": (["--prompt=the fox", "--score"], {}, ""),
        "empty": (["--prompt="], GREEDY, ""),
        "empty_allowed": (["--prompt=", "--allow_empty", "--json"], GREEDY, ""),
        "too_long": (["--prompt=" + "x" * 70, f"--output={folder / 'never.jsonl'}"], GREEDY, ""),
        "other_draft": (["--prompt=a", f"--draft={folder / 'run'}"], {**GREEDY, "seed": 77}, ""),
        "no_draft": (["--prompt=a", f"--draft={folder / 'nowhere'}"], GREEDY, ""),
        "no_template": (["--prompt=a", "--chat"], GREEDY, ""),
        "stop_of_nothing": (["--prompt=a"], {"stop": [""]}, ""),
        "beams_interactive": (["--interactive"], beams, "a"),
        "beams_draft": (["--prompt=a", f"--draft={folder / 'run'}"], beams, ""),
        "no_folder": (["--prompt=a", f"--output={folder / 'none' / 'x'}"], GREEDY, ""),
    }
    done = tiny.command("generate", str(folder / "run"), json.dumps(list(commands.values())), code=DRIVER, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(zip(commands, json.loads(done.stdout.splitlines()[-1]), strict=True))
    return folder, said


def rows(said, name):
    out, error = said[name]
    assert not error, error
    return [json.loads(line) for line in out.splitlines()]


def test_prompts_from_everywhere(ran):
    """The same answers whether prompts are arguments, lines, JSON lines or typed, and with a draft. Fails if a line keeps its end."""
    folder, said = ran
    expected = rows(said, "json")
    assert [row["prompt"] for row in expected] == ["the quick", "brown"] and all(row["finished_by"] == "length" for row in expected)
    for name in ("file", "stdin", "stdin_field"):
        assert rows(said, name) == expected, name
    drafted = rows(said, "draft")
    assert [row["text"] for row in drafted] == [row["text"] for row in expected]
    assert said["jsonl"] == [f"2 lines in {folder / 'out.jsonl'}\n", ""]
    assert [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()] == expected
    assert said["text"][0] == "the quick" + expected[0]["text"] + "\n"
    assert said["interactive"][0] == "".join(row["text"] + "\n" for row in expected)
    best = rows(said, "beams")
    assert len(best) == 2 and best[0]["score"] >= best[1]["score"] and best[0]["text"] != best[1]["text"]
    assert rows(said, "empty_allowed")[0]["prompt"] == ""


def test_choices_and_scores(ran):
    """Fails if the prompt's own tokens are scored with the choice."""
    _, said = ran
    [found] = rows(said, "choice")
    assert found["choice"] == found["choices"][0]["text"] and {c["text"] for c in found["choices"]} == {"fox", "dog"}
    assert abs(sum(c["probability"] for c in found["choices"]) - 1) < 1e-6
    [scored] = rows(said, "score")
    assert scored["tokens"] == list("the fox") and abs(sum(scored["logprobs"]) - scored["logprob"]) < 1e-4
    fox = next(c["logprob"] for c in found["choices"] if c["text"] == "fox")
    assert abs(sum(scored["logprobs"][4:]) - fox) < 1e-3
    assert said["score_text"][0] == f"{scored['logprob']:.4f}\tthe fox\n"
    assert said["choice_text"][0].splitlines()[0].endswith(f"\tthe {found['choice']}")


@pytest.mark.parametrize("name, message", [
    ("empty", "--prompt number 1 is empty: give a text, or --allow_empty"),
    ("too_long", "--prompt number 1 has 71 tokens"),
    ("other_draft", "another vocabulary"),
    ("no_draft", "is it the folder of a run?"),
    ("no_template", "no chat template"),
    ("stop_of_nothing", "zero length"),
    ("beams_interactive", "--interactive asks for its prompts and streams"),
    ("beams_draft", "leave it out with beams"),
    ("no_folder", "--output: there is no folder"),
])
def test_one_clear_error(ran, name, message):
    folder, said = ran
    assert message in said[name][1] and not said[name][0]
    assert not list(folder.glob("*never*")) and not list(folder.glob("*partial*"))


def typed(text):
    return types.SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: False)


@pytest.mark.parametrize("content, field, message", [
    (b"", "", "standard input is empty"),
    (b"a\n\nb\n", "", "standard input line 2 is empty"),
    (b"a\n\xff\n", "", "standard input line 2 is not UTF-8"),
    (b'{"q": 1}\n', "q", "line 1: field 'q' is a int"),
    (b'{"text": "x"}\n{"test": "x"}\n', "text", "line 2 has no field 'text', did you mean 'test'? (its fields: test): set --field"),
    (b"nonsense\n", "q", "line 1 is not JSON"),
])
def test_prompts_that_are_none(monkeypatch, content, field, message):
    monkeypatch.setattr("sys.stdin", typed(content))
    with pytest.raises(UserError) as caught:
        prompts.read([], "", field, False)
    assert message in str(caught.value)


def test_files_of_prompts(tmp_path):
    path = tmp_path / "in.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"prompt": "ä\\n"}\n')
    assert prompts.read([], str(path), "", False) == [(f"{path}:1", "ä\n")]
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert [text for _, text in prompts.read([], str(tmp_path / "bom.txt"), "", False)] == ["one", "two"]
    with pytest.raises(UserError, match="there is no file"):
        prompts.read([], str(tmp_path / "none"), "", False)
    with pytest.raises(UserError, match="both give prompts"):
        prompts.read(["a"], str(path), "", False)


def test_a_recurrent_model(tmp_path):
    """It reads prompts of any length, longer than its rows; what cannot be asked is one clear error here too, and a draft needs
    a model that can go back. Fails if data.seq_len is taken for a limit (`limit = config.data.seq_len` in cli/generate.py)."""
    config = tiny.shrink(load(tiny.ROOT / "configs" / "lstm_tiny.py"), tiny.write_text(tmp_path / "text"), tmp_path / "cache")
    config.train.sample_tokens = 0
    with tiny.workdir(tmp_path / "run"):
        train.main(config)
    generate = lambda *words: ["generate", f"--workdir={tmp_path / 'run'}", "--config.generate.max_new_tokens=4", *words]
    beams = ["--config.generate.temperature=0", "--config.generate.beams=2"]
    refused = {
        "--prompt number 1 is empty: give a text, or --allow_empty": generate("--prompt="),
        "zero length": generate("--prompt=a", "--config.generate.stop=('',)"),
        "--interactive asks for its prompts and streams": (generate("--interactive", *beams), "a\n"),
        "a LSTM cannot take back what it has read": generate("--prompt=a", f"--draft={tmp_path / 'run'}"),
        "--targets are what --score scores of an encoder-decoder": generate("--prompt=a", "--score", f"--targets={tmp_path}"),
    }
    long, searched, *errors = tiny.commands(generate("--prompt=" + "the fox " * 40, "--json"), generate("--prompt=the ", *beams, "--json"),
                                            *refused.values())
    for done in (long, searched):
        assert done.returncode == 0 and 1 <= json.loads(done.stdout)["tokens"] <= 4, done.stderr
    for message, done in zip(refused, errors, strict=True):
        assert done.returncode == 2 and message in done.stderr and not done.stdout, done.stderr + done.stdout
        assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
