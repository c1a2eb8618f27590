# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""README's figures are those of the committed files, and the files are small and whole."""
import json

from benchmarks import machine, summary, tables

RESULTS = sorted((machine.ROOT / "benchmarks" / "results").glob("*.json"))


def test_the_readme_shows_the_committed_figures():
    """Fails if a figure is written by hand: change a digit of README's table."""
    readme = (machine.ROOT / "README.md").read_text()
    for name, table in summary.SUMMARIES.items():
        lines = table([json.loads(path.read_text()) for path in RESULTS if path.name.startswith(name)])
        assert len(lines) > 2
        for line in lines:
            assert line in readme, f"README does not have: {line} (python -m benchmarks.report --short benchmarks/results/{name}*.json)"


def test_results_are_small_and_can_be_shown():
    assert RESULTS and sum(path.stat().st_size for path in RESULTS) < 700_000
    for path in RESULTS:
        document = json.loads(path.read_text())
        assert document["machine"]["commit"] and document["machine"]["flags"] is not None
        for case in document["cases"]:
            assert tables.TABLES[case["kind"]](case, document)
