# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""JSON Lines: one JSON object per line, one of its fields is the document, or two are a source and its target."""
import dataclasses
import json
from collections.abc import Callable, Iterator

from jaxlm.core.errors import UserError, nearest
from jaxlm.data import documents as of
from jaxlm.data.digest import Digests
from jaxlm.data.sources import files


@dataclasses.dataclass(frozen=True)
class Config:
    """`path` as in the text source; `field` is the key of the text in each object. With `target_field` a document is a pair of
    that text and the one under this key."""
    path: str = ""
    field: str = "text"
    target_field: str = ""
    include: tuple = ("*.jsonl", "*.ndjson", "*.json")
    exclude: tuple = (".*",)

    @property
    def pairs(self) -> bool:
        """Its documents are pairs."""
        return bool(self.target_field)

    def problems(self) -> list[str]:
        found = []
        if not self.path.strip():
            found.append("source.path is empty: name a .jsonl file, a folder or a glob")
        if not self.field:
            found.append("source.field is empty: name the key that holds the text")
        if self.field and self.field == self.target_field:
            found.append(f"source.field and source.target_field are both {self.field!r}: a source and its target are two fields")
        return found


def documents(config: Config) -> Iterator[of.Document]:
    """The text of each line, in file order; blank lines and empty texts are left out. UserError names file:line."""
    count = 0
    for file in files.find(config.path, config.include, config.exclude):
        with files.opened(file.path) as f:
            for number, (_, line) in enumerate(files.lines(f), start=1):
                if line.strip():
                    where = f"{file.path}:{number}"
                    found = text_of(line, config.field, where)
                    if config.pairs:
                        found = of.pair(found, text_of(line, config.target_field, where, "source.target_field"), where)
                    if found is not None and (config.pairs or found.strip()):
                        count += 1
                        yield found
    if not count:
        raise UserError(f"no text under source.path={config.path!r}: no line holds a non-empty {config.field!r}")


def fingerprint(config: Config, digests: Callable[[str], str] | None = None) -> dict:
    """What the documents depend on: file names and contents, and the fields."""
    found = files.find(config.path, config.include, config.exclude)
    fields = {"field": config.field} | ({"target_field": config.target_field} if config.pairs else {})
    return {"source": "jsonl"} | fields | files.identity(found, digests or Digests())


def text_of(line: bytes, field: str, where: str, setting: str = "source.field") -> str:
    """The text in a field of one line of JSON. UserError that names `where` it stands and the `setting` of the field."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise UserError(f"{where} is not UTF-8 ({e.reason} at byte {e.start} of the line): convert the file to "
                        "UTF-8") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{where} is not JSON ({e}): each line must be one JSON object; repair or remove "
                        "the line") from e
    if not isinstance(row, dict):
        raise UserError(f"{where} is a JSON {type(row).__name__}, not an object: each line must be like "
                        f"{{{field!r}: ...}}")
    if field not in row:
        raise UserError(f"{where} has no field {field!r}{nearest(field, row)} (its fields: {', '.join(row)}): set "
                        f"{setting}")
    text = row[field]
    if not isinstance(text, str):
        raise UserError(f"{where}: field {field!r} is a {type(text).__name__}, not a string: choose another "
                        f"{setting}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise UserError(f"{where}: field {field!r} holds half of a surrogate pair at character {e.start}, which is no "
                        "Unicode text: repair or remove the line") from e
    return text
