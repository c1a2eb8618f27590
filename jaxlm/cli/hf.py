# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm hf import DIR --workdir=RUN | export OUT --workdir=RUN | check DIR: Hugging Face model folders, both ways."""
import pathlib
import sys

import jax
from absl import flags
from ml_collections import ConfigDict

from jaxlm import __version__, build
from jaxlm.checkpoints import safetensors, start
from jaxlm.checkpoints.hf import compare, families, folder
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import chosen
from jaxlm.cli import experiment as experiments
from jaxlm.cli import flags as command_line
from jaxlm.cli import folder_page
from jaxlm.core import files, tree
from jaxlm.core.errors import UserError, nearest
from jaxlm.core.log import count, say
from jaxlm.data.tokenizers import tokenizer as tokenizers
from jaxlm.parallel import place, processes

FLAGS = flags.FLAGS
flags.DEFINE_enum("dtype", "", ["", "float32", "bfloat16", "float16"], "export: type of the numbers; empty = the run's own.")
flags.DEFINE_float("shard_gb", safetensors.SHARD_BYTES / 1e9, "export: size of a file, in gigabytes.", lower_bound=1e-9)
flags.DEFINE_float("tolerance", 1e-4, "check: largest difference from the reference, relative beyond numbers of 1.")
KEPT = "hf"  # folder of a run with the files that it was imported with


def page(action: str, where: str) -> ConfigDict:
    """The config of a folder's model, once it is known what to do with it."""
    if action not in ACTIONS:
        raise UserError(f"hf: there is no '{action}'{nearest(action, ACTIONS)} There are: {', '.join(ACTIONS)}")
    return folder_page.page(folder.Folder(where))


def importing(config: ConfigDict, where: str) -> None:
    if FLAGS.workdir is None:
        raise UserError("--workdir is missing: name the folder of the run to make")
    workdir, source = pathlib.Path(FLAGS.workdir).resolve(), folder.Folder(where)
    tokenizer, own = folder_page.tokenizer(config, source), pathlib.Path(config.tokenizer.path) == source.path.resolve()
    _, abstract, layout = experiments.laid(config)
    source.check_vocabulary(abstract, tokenizer.vocab_size)
    with files.new_folder(workdir) as made, place.use(layout):
        params = source.params(abstract)
        # What the run needs is in its own folder from now on.
        config.tokenizer.path = str(workdir / KEPT)
        stored = {"config": build.to_json(config), "tokenizer": tokenizer.to_json(), "data": None,
                  "versions": {"jaxlm": __version__, "jax": jax.__version__}}
        (made / KEPT).mkdir()
        for name, text in source.texts(None if own else tokenizer).items():
            (made / KEPT / name).write_text(text, encoding="utf-8")
        (made / "config.json").write_text(stored["config"], encoding="utf-8")
        (made / "tokenizer.json").write_text(tokenizer.to_hf_json(), encoding="utf-8")
        with Checkpoints(made / "checkpoints", build.section(config, "checkpoints")) as checkpoints:
            checkpoints.save(0, {"params": params}, stored, force=True)
    kinds = ", ".join(sorted({str(x.dtype) for x in source.weights.values()}))
    pairs = f" and --config.source.path=PAIRS for PAIRS.{config.source.source} and PAIRS.{config.source.target}" if config.data.packing == "pairs" else ""
    print(f"{source.hf['model_type']} -> {source.model}: {count(tree.size(params))} parameters ({kinds} in the file, {config.model.param_dtype} "
          f"here), {tokenizer.vocab_size:,} tokens\n{FLAGS.workdir} is a run now: generate and evaluate take it as --workdir, train with "
          f"--config={FLAGS.workdir}/config.json{pairs}, others start from --config.start.path={FLAGS.workdir}/checkpoints")


def exporting(config: ConfigDict, out: str) -> None:
    kept, model = pathlib.Path(FLAGS.workdir).resolve() / KEPT, build.section(config, "model")
    with Checkpoints(kept.parent / "checkpoints", writing=False) as checkpoints:
        tokenizer = tokenizers.from_json(experiments.newest_meta(checkpoints)["tokenizer"])
        config.model.vocab_size = config.model.vocab_size or tokenizer.vocab_size
        _, abstract, layout = experiments.laid(config)
        known, causal, sides = folder.read_json(kept / folder.CONFIG), getattr(model, "causal", True), getattr(model, "source", False)
        ids = folder.special_ids(tokenizer.vocabulary, causal, sides)
        written = families.config_to_hf(config.model.name, build.section(config, "model"), tree.paths(abstract), known)
        with place.use(layout):
            params, step = start.weights(checkpoints, abstract, chosen.step())
    texts = folder.tokenizer_files(kept, tokenizer, sides) | folder.generation(kept, ids, causal)
    folder.write(out, params, written if known else {**ids, **written}, texts, dtype=FLAGS.dtype, shard_bytes=int(FLAGS.shard_gb * 1e9))
    print(f"step {step} -> {out}: {written['architectures'][0]}, {count(tree.size(params))} parameters")


def checking(config: ConfigDict, where: str) -> None:
    config.model.scan, config.model.param_dtype, source = False, "float32", folder.Folder(where)
    model, abstract, _ = experiments.laid(config)
    params = source.params(abstract)
    print(f"names and shapes: {len(source.weights)} tensors in {len(set(source.weights.files.values()))} file(s) fit {source.model}, "
          f"{tree.size(params):,} parameters")
    changed = source.changed(abstract, params)
    back = families.config_to_hf(source.model, build.section(config, "model"), tree.paths(abstract), source.hf)
    print(f"round trip: {'every tensor comes back bit for bit' if not changed else 'CHANGED: ' + ', '.join(changed[:5])}; "
          f"config.json reads back as {back['architectures'][0]}")
    if not (versions := compare.installed()):
        say("torch and transformers are not installed: no results are compared (pip install torch transformers)")
    agrees = not versions or compare.told(source, model.apply, params, FLAGS.tolerance, versions)
    raise SystemExit(0 if agrees and not changed else 1)


ACTIONS = {"import": importing, "export": exporting, "check": checking}


def main(config: ConfigDict, action: str, where: str) -> None:
    if processes.several():
        raise UserError("hf works with one process; training by several starts from a folder itself: --config.start.path=FOLDER")
    if action != "check":  # which takes the model alone
        build.validate(config, jax.device_count())
    ACTIONS[action](config, where)

if __name__ == "__main__":
    asked = next((a for a in sys.argv[1:] if not a.startswith("-")), "")
    command_line.run(main, needs_run=asked == "export", words=("import, export or check", "the folder to read or to write"),
                     page=None if asked == "export" else page)
