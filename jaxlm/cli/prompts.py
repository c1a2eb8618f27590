# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Where the prompts of `jaxlm generate` come from: arguments, a file, standard input or a person; and where answers go."""
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jaxlm.core import files as written
from jaxlm.core.errors import UserError
from jaxlm.data.sources import files, jsonl
from jaxlm.parallel import processes


def read(given: Sequence[str], path: str, field: str, allow_empty: bool, source: bool = False, flag: str = "--input") -> list[tuple[str, str]]:
    """--prompt as given, or a prompt from each line of a file ("-" or none: standard input), which is JSON with a field: where each
    is from, and its text. `source`: an encoder-decoder's, of which a blank one is empty. `flag` names the file.

    UserError, which says where, for lines that are no text, for no text at all, and for an empty one unless allowed.
    """
    if given and path:
        raise UserError("--prompt and --input both give prompts: leave out one")
    found = [(f"--prompt number {i}", text) for i, text in enumerate(given, start=1)] or list(_lines(path, field, flag))
    if not found or source and not any(text.strip() for _, text in found):
        raise UserError(f"there are no prompts: {f'{flag} {path}' if path else 'standard input' if not given else '--prompt'} is empty")
    for where, text in found:
        if not (text.strip() if source else text) and not allow_empty:
            raise UserError(f"{where} is empty: " + ("there is nothing to read or to score in it" if source else
                                                     "give a text, or --allow_empty to begin new documents"))
    processes.agree("the list of prompts", json.dumps([text for _, text in found]))
    return found


def _lines(path: str, field: str, flag: str) -> Iterator[tuple[str, str]]:
    if path in ("", "-"):
        yield from _parsed(sys.stdin.buffer, "standard input line ", field)
        return
    field = field or ("prompt" if path.removesuffix(".gz").endswith((".jsonl", ".ndjson")) else "")
    if not pathlib.Path(path).is_file():
        raise UserError(f"{flag}: there is no file '{path}'")
    with files.opened(path) as file:
        yield from _parsed(file, f"{path}:", field)


def _parsed(file: Any, where: str, field: str) -> Iterator[tuple[str, str]]:
    for number, (_, line) in enumerate(files.lines(file), start=1):
        at = f"{where}{number}"
        if field:
            if line.strip():
                yield at, jsonl.text_of(line, field, at, "--field")
            continue
        try:
            yield at, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise UserError(f"{at} is not UTF-8 ({e.reason} at byte {e.start} of the line): convert it to UTF-8") from e


def chat(tokenizer: Any, text: str, system: str) -> Sequence[int]:
    """Token ids of a conversation in which the user says this, for the reply to follow."""
    messages = [{"role": "system", "content": system}] if system else []
    return tokenizer.encode_chat([*messages, {"role": "user", "content": text}])


def typed() -> Iterator[str]:
    """Lines as a person writes them, until the end of the input (Ctrl-D) or an interrupt."""
    if processes.several():
        raise UserError("--interactive is for one process: give prompts with --input to several")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def check_output(path: str) -> None:
    """UserError, before anything is computed, where the answers could not be written."""
    if path and not pathlib.Path(path).parent.is_dir():
        raise UserError(f"--output: there is no folder '{pathlib.Path(path).parent}'")
    if path and pathlib.Path(path).is_dir():
        raise UserError(f"--output: '{path}' is a folder, name a file in it")


def key(source: bool) -> str:
    """What a prompt is called in an answer's JSON."""
    return "source" if source else "prompt"


def one_line(text: str) -> str:
    """A text with its line breaks as spaces."""
    return " ".join(text.splitlines())


def show(rows: Sequence[dict[str, Any]], lines: Sequence[str], as_json: bool, path: str) -> None:
    """Answers: rows as JSON lines, in a file or on request on standard output, else the lines to read; of several processes
    the first writes. A file is whole or absent; one named .txt holds the answers' texts alone, a line each."""
    if path.endswith(".txt"):
        said = [one_line(row["choice"] if "choice" in row else row["text"]) for row in rows]
    else:
        said = [json.dumps(row, ensure_ascii=False) for row in rows] if path or as_json else lines
    text = "".join(line + "\n" for line in said)
    if not processes.first():
        return
    if path:
        written.write_atomically(pathlib.Path(path), text)
        print(f"{len(rows)} lines in {path}")
    else:
        sys.stdout.write(text)
