# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The house holds: imports go down, no cycles, no hidden or dynamic imports, small files with fitting names."""
import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jaxlm"
FILES = sorted(PACKAGE.rglob("*.py"))

# The floors, from the ground up. Folders on one floor do not know each other.
FLOORS = [
    {"core"},
    {"parallel", "ops"},
    {"layers", "data", "optim"},
    {"models", "objectives", "checkpoints"},
    {"tasks", "scores", "compress", "generate"},
    {"training", "export", "serve", "plan"},
    {"build"},
    {"cli"},
]
FLOOR = {folder: number for number, folders in enumerate(FLOORS) for folder in folders}
# Packages that only extras install: the core must import without them.
OPTIONAL = {"torch", "transformers", "tensorflow", "onnx", "onnxruntime", "wandb", "qwix", "jinja2"}
# Reached by name: the one dynamic import, and the command line's `python -m`.
DYNAMIC = {"build.py": "importlib", "cli/main.py": "runpy"}
FLAX_NAMES = {"Module", "Param", "Rngs", "List", "Dict", "split", "merge", "state", "eval_shape", "to_pure_dict",
              "to_flat_state", "initializers"}


@functools.cache
def parse(file: pathlib.Path) -> ast.Module:
    return ast.parse(file.read_text())


def name(file: pathlib.Path) -> str:
    return str(file.relative_to(PACKAGE))


def folder(file: pathlib.Path) -> str:
    part = file.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    """(dotted module, line) of every import; `from a import b` counts as a.b too, b may be a module."""
    out = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            out += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return out


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_go_down(file):
    """Fails if a file imports from its own floor's other folders or from above: `from jaxlm.training import loop` in core/log.py."""
    here = folder(file)
    if here == "__init__":
        return
    assert here in FLOOR, f"jaxlm/{here} has no floor: put it on one in tests/test_architecture.py"
    for module, line in imports(parse(file)):
        parts = module.split(".")
        if parts[0] != "jaxlm" or len(parts) < 2:
            continue
        there = parts[1]
        if there.startswith("__"):
            continue  # the package's own version
        allowed = there == here or FLOOR.get(there, 99) < FLOOR[here]
        assert allowed, f"{name(file)}:{line} imports jaxlm.{there}, which is not on a lower floor than {here}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_are_at_the_top(file):
    """Fails if an import stands inside a function: `import json` as the first line of any function's body.

    The one exception is an optional third-party package at its seam.
    """
    for node in ast.walk(parse(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for module, line in imports(node):
                assert module.split(".")[0] in OPTIONAL, f"{name(file)}:{line} imports {module} inside a function"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_dynamic_imports_have_one_home(file):
    """Fails if a second file imports by name: `import importlib` in training/loop.py."""
    text = file.read_text()
    for module in ("importlib", "runpy", "__import__"):
        if re.search(rf"\b{module}\b", text):
            assert DYNAMIC.get(name(file)) == module, f"{name(file)} uses {module}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_optional_packages_stay_optional(file):
    """Fails if a module needs an extra to be imported: `import torch` at the top of any file."""
    for node in parse(file).body:
        for module, line in imports(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else []:
            assert module.split(".")[0] not in OPTIONAL, f"{name(file)}:{line} imports {module} at the top"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_are_small_and_named_by_subject(file):
    """Fails if a file passes 400 lines or is called utils: add 400 blank lines to core/log.py."""
    lines = file.read_text().splitlines()
    limit = 120 if folder(file) == "cli" else 400
    if name(file) == "cli/experiment.py":
        limit = 200  # the assembly that the commands share
    assert len(lines) <= limit, f"{name(file)} has {len(lines)} lines, the limit is {limit}"
    assert not re.search(r"(util|helper|misc|common)", name(file)), f"{name(file)}: name it by its subject"
    if file.name != "__init__.py" or lines:
        assert lines[0].startswith("# Copyright"), f"{name(file)} has no licence line"
        assert ast.get_docstring(parse(file)), f"{name(file)} has no docstring"


def test_no_cycles():
    """Fails if two files import each other: `from jaxlm.training import loop` in training/metrics.py and the reverse."""
    modules = {"jaxlm." + name(f).removesuffix(".py").replace("/", ".").removesuffix(".__init__"): f for f in FILES}
    graph = {}
    for module, file in modules.items():
        found = set()
        for target, _ in imports(parse(file)):
            for candidate in (target, target.rpartition(".")[0]):
                if candidate in modules and candidate != module:
                    found.add(candidate)
                    break
        graph[module] = found
    done, path = set(), []

    def visit(module):
        assert module not in path, "import cycle: " + " -> ".join([*path[path.index(module):], module])
        if module in done:
            return
        path.append(module)
        for target in sorted(graph[module]):
            visit(target)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_flax_is_used_as_declarations_only(file):
    """Fails if a model leans on a Flax transform or stateful layer: `nnx.Dropout(0.1)` in models/gpt.py."""
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nnx":
            assert node.attr in FLAX_NAMES, f"{name(file)}:{node.lineno} uses nnx.{node.attr}"


@pytest.mark.parametrize("file", [f for f in FILES if folder(f) not in ("build", "cli")], ids=name)
def test_no_whole_config_below_the_command_line(file):
    """Fails if a component digs in a config: `config.get("lr", 1)` in optim/optimizers.py."""
    text = file.read_text()
    assert "ml_collections" not in text and "config.get(" not in text, f"{name(file)} sees a ConfigDict"


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.py")), ids=lambda f: f.name)
def test_pages_import_only_build(file):
    """Fails if a page reaches into the library: `from jaxlm.models import gpt` in configs/gpt_tiny.py."""
    found = [m for m, _ in imports(parse(file))]
    others = [m for m in found if m not in ("jaxlm.build",)]
    assert len(others) <= 1 and all(m.startswith("configs.") for m in others), f"{file.name} imports {others}"
    assert ast.get_docstring(parse(file)), f"{file.name}: say what it is, its command, cost and result"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_benchmarks_are_never_imported(file):
    """Fails if the product needs what measures it: `from benchmarks import shapes` in training/loop.py."""
    for module, line in imports(parse(file)):
        assert module.split(".")[0] not in ("benchmarks", "tests"), f"{name(file)}:{line} imports {module}"


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda f: f.name)
def test_benchmarks_are_small_files(file):
    """Fails if a file of the benchmarks passes 400 lines or has no licence line or docstring: add 400 blank lines to run.py."""
    lines = file.read_text().splitlines()
    assert len(lines) <= 400 and lines[0].startswith("# Copyright") and ast.get_docstring(parse(file))
