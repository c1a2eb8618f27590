# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Tables with ratios from the JSON that suites write: python -m benchmarks.report [--short] FILE... (markdown)"""
import json
import pathlib
import sys
from typing import Any

from benchmarks import summary, tables


def main(paths: list[str]) -> None:
    documents = [json.loads(pathlib.Path(path).read_text()) for path in paths if path != "--short"]
    lines = [line for part in dict.fromkeys(summary.SUMMARIES.values()) for line in part(documents)] if "--short" in paths else map(text, documents)
    print("\n".join(lines))


def text(document: dict[str, Any]) -> str:
    """The whole report of one file."""
    m = document["machine"]
    lines = [f"## {document['suite']}: {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB{''.join(', ' + g for g in m['gpus'])}",
             f"{', '.join(m['flags'])}; load {m['load_average'][0]:.2f} at the start; revision {m['commit']}; {m['time']}", ""]
    for case in document["cases"]:
        lines += [*tables.TABLES[case["kind"]](case, document), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
