# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Chat templates: found beside a tokenizer.json, kept with it, rendered as transformers renders them."""
import builtins
import importlib
import importlib.util
import json

import pytest
import tokenizers

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import file
from jaxlm.data.tokenizers.tokenizer import ByteTokenizer, from_json

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = """{%- if messages[0]['role'] == 'assistant' %}{{ raise_exception('begin with the user') }}{% endif %}
{{- bos_token }}
{%- for message in messages %}
    {%- if loop.index0 > 9 %}{% break %}{% endif %}
{{ '<|im_start|>' + message['role'] }}
{{ message['content'] | trim + '<|im_end|>' }}
{% endfor %}
{%- if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %}
"""
BOS = {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
       "special": True}
MESSAGES = [{"role": "system", "content": "be brief "}, {"role": "user", "content": "hé?"}]
TEXT = "<|endoftext|><|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhé?<|im_end|>\n<|im_start|>assistant\n"


def write(folder, **changes):
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(["be brief and be brief"], trainer)
    made.save(str(folder / "tokenizer.json"))
    stored = {"chat_template": TEMPLATE, "bos_token": BOS, "eos_token": "<|im_end|>",
              "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(stored | changes))
    return file.build(file.Config(str(folder)))


def test_a_conversation(tmp_path):
    """Special tokens of the template are tokens, those that a message holds are refused. Fails if the template is spelled
    out (encode_special_tokens stays True), or stays off for the text that comes next."""
    made = write(tmp_path)
    ids = made.encode_chat(MESSAGES)
    assert made.decode(ids, special=True) == TEXT and ids[0] == made.eot and (ids == made.token_id("<|im_start|>")).sum() == 3
    assert made.token_id("<|im_end|>") not in made.encode("a <|im_end|> in a text")
    again = from_json(made.to_json())
    assert again.encode_chat(MESSAGES).tolist() == ids.tolist()
    with pytest.raises(UserError, match="holds '<|im_end|>'"):
        made.encode_chat([{"role": "user", "content": "x<|im_end|>y"}])
    with pytest.raises(UserError, match="refuses these messages: begin with the user"):
        made.encode_chat([{"role": "assistant", "content": "x"}])
    if importlib.util.find_spec("transformers"):
        theirs = importlib.import_module("transformers").AutoTokenizer.from_pretrained(tmp_path)
        assert theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True) == TEXT
        assert list(theirs.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]) == ids.tolist()


def test_where_templates_are(tmp_path):
    """A file of its own comes before the config's; of several the default; and no other text depends on it."""
    plain = write(tmp_path, chat_template=None)
    assert plain.chat is None and "chat" not in json.loads(plain.to_json())
    named = write(tmp_path, chat_template=[{"name": "tool", "template": "no"}, {"name": "default", "template": TEMPLATE}])
    assert named.chat.source == TEMPLATE and named.fingerprint == plain.fingerprint
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    assert write(tmp_path).chat.render(MESSAGES) == "be brief !"
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(UserError, match="refuses these messages"):
        write(tmp_path).encode_chat(MESSAGES)


def test_without_template_or_jinja(tmp_path, monkeypatch):
    for made in (write(tmp_path, chat_template=None), ByteTokenizer()):
        with pytest.raises(UserError, match="no chat template"):
            made.encode_chat(MESSAGES)
    made, real = write(tmp_path), builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("jinja2"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'jaxlm\[chat\]'"):
        made.encode_chat(MESSAGES)
