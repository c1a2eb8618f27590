# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Chat templates: messages to the text a chat model was trained on, as the template that came with its tokenizer says."""
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jaxlm.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Template:
    """A Jinja template and the special tokens that it may name."""

    source: str
    names: Mapping[str, str]  # bos_token, eos_token, ... where the tokenizer has them

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text that a reply to these messages ({"role": ..., "content": ...}) follows.

        UserError when jinja2 is not installed, or when the template refuses the messages.
        """
        try:
            import jinja2
            from jinja2 import sandbox
        except ImportError as e:
            raise UserError("a chat template needs the package jinja2: pip install 'jaxlm[chat]'") from e

        def refuse(message: str) -> NoReturn:
            raise jinja2.TemplateError(message)

        environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = refuse
        try:
            return environment.from_string(self.source).render(messages=list(messages), add_generation_prompt=True, **self.names)
        except jinja2.TemplateError as e:
            raise UserError(f"the tokenizer's chat template refuses these messages: {e}") from e


def beside(path: pathlib.Path) -> Template | None:
    """The template that lies beside a tokenizer.json: chat_template.jinja, or in tokenizer_config.json; None without one."""
    config, file = path.with_name("tokenizer_config.json"), path.with_name("chat_template.jinja")
    try:
        stored = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        source = file.read_text(encoding="utf-8") if file.is_file() else stored.get("chat_template")
    except (OSError, ValueError, AttributeError) as e:
        raise UserError(f"cannot read {config} or {file}: {e}") from e
    if isinstance(source, list):  # several by name
        source = next((one["template"] for one in source if one.get("name") == "default"), None)
    text = lambda token: token.get("content") if isinstance(token, dict) else token
    names = {key: text(stored[key]) for key in ("bos_token", "eos_token", "pad_token", "unk_token") if text(stored.get(key))}
    return Template(source, names) if source else None
