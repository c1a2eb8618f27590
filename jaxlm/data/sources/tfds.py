# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Text data sets prepared by TensorFlow Datasets, read without TensorFlow: array_record, parquet and tfrecord files.

array_record goes through tfds' own data source; tfrecord, which that refuses, is read shard by shard with Grain.
"""
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import grain
import tensorflow_datasets as tfds

from jaxlm.core.errors import UserError, nearest
from jaxlm.data import digest
from jaxlm.data import documents as of
from jaxlm.data.sources import files

# Many public data sets are registered only when the attribute of one of these modules is touched.
_LAZY = ("text", "translate", "summarization", "question_answering", "text_simplification", "ranking", "structured")


@dataclasses.dataclass(frozen=True)
class Config:
    """`dataset`: "imdb_reviews", "glue/sst2:2.0.0", or the folder of a prepared data set (it holds dataset_info.json).

    split: tfds syntax ("train", "train[:10%]", "train+test"). field: the feature with the text; "a/b" for nested ones.
    target_field: with it a document is a pair of that text and the one of this feature ("en" and "de" of a translation).
    data_dir: where tfds keeps its data sets; "" is tfds' default.
    """
    dataset: str = ""
    split: str = "train"
    field: str = "text"
    target_field: str = ""
    data_dir: str = ""

    @property
    def pairs(self) -> bool:
        """Its documents are pairs."""
        return bool(self.target_field)

    def problems(self) -> list[str]:
        found = [f"source.field and source.target_field are both {self.field!r}: a source and its target are two fields"] \
            if self.field and self.field == self.target_field else []
        return found + [f"source.{name} is empty: {way}" for name, value, way in (
            ("dataset", self.dataset, "name a TFDS data set or the folder of a prepared one"),
            ("split", self.split, "use train, test, train[:10%], ..."),
            ("field", self.field, "name the feature that holds the text")) if not value.strip()]


def documents(config: Config) -> Iterator[of.Document]:
    """The text of each example in the order stored on disk. Raises UserError."""
    builder = _builder(config)
    split = _split(builder, config.split)
    _check_fields(builder, config)
    if builder.info.file_format.value == "tfrecord":
        examples = _tfrecords(builder, split)
    else:
        examples = iter(builder.as_data_source(split=config.split))
    count = 0
    for number, example in enumerate(examples):
        where = f"{builder.info.full_name} {config.split} example {number}"
        found = _text(example, config.field, where)
        if config.pairs:
            found = of.pair(found, _text(example, config.target_field, where), where)
        if found is not None and (config.pairs or found.strip()):
            count += 1
            yield found
    if not count:
        raise UserError(f"no text in {builder.info.full_name} {config.split}: every {config.field!r} is empty")


def fingerprint(config: Config, digests: Callable[[str], str] | None = None) -> dict:
    """What the documents depend on: data set, version, split, field, and the names and contents of the files.

    A version says what a data set should be: one prepared again, or repaired, may differ under the same version and sizes.
    """
    builder = _builder(config)
    split = _split(builder, config.split)
    _check_fields(builder, config)
    parts = [files.File(f"{os.path.basename(i.filename)}:{i.skip}:{i.take}", i.filename) for i in split.file_instructions]
    return {"source": "tfds", "name": builder.info.full_name, "split": config.split, "field": config.field,
            **({"target_field": config.target_field} if config.pairs else {}), "examples": split.num_examples,
            **files.identity(parts, digests or digest.Digests())}


def _builder(config: Config) -> Any:
    """The prepared data set, read-only where it is given as a folder."""
    folder = os.path.expanduser(config.dataset)
    if os.path.isfile(os.path.join(folder, "dataset_info.json")):
        return tfds.builder_from_directory(folder)
    if os.path.isdir(folder) and os.sep in config.dataset:
        raise UserError(f"source.dataset={config.dataset} is a folder without dataset_info.json: name the version "
                        "folder of a prepared TFDS data set, like ~/tensorflow_datasets/imdb_reviews/plain_text/1.0.0")
    options = {"data_dir": os.path.expanduser(config.data_dir)} if config.data_dir else {}
    missing = tfds.core.registered.DatasetNotFoundError
    try:
        try:
            builder = tfds.builder(config.dataset, **options)
        except missing:
            _register_all()
            builder = tfds.builder(config.dataset, **options)
    except missing as e:
        known = tfds.core.registered.list_imported_builders()
        prepared = _folders(config.data_dir)
        there = f" (prepared in {config.data_dir}: {', '.join(prepared) or 'none'})" if config.data_dir else ""
        hint = nearest(config.dataset, [*known, *prepared])
        raise UserError(f"TFDS has no data set {config.dataset!r}{hint}{there}: set source.dataset, or "
                        "source.data_dir where it was prepared") from e
    except (ValueError, AssertionError, AttributeError) as e:
        raise UserError(f"TFDS cannot make source.dataset={config.dataset!r}: {' '.join(str(e).split())[:300]}") from e
    if not builder.info.splits:
        arguments = f", data_dir={config.data_dir!r}" if config.data_dir else ""
        raise UserError(
            f"TFDS data set {config.dataset} is not prepared in {builder.data_dir}. Prepare it once: python -c "
            f"\"import tensorflow_datasets as tfds; tfds.builder({config.dataset!r}{arguments}, "
            f"file_format='array_record').download_and_prepare()\" (some data sets need TensorFlow installed for this)")
    return builder


def _register_all() -> None:
    for module in _LAZY:
        module = getattr(tfds, module)
        for name in dir(module):
            getattr(module, name)


def _folders(data_dir: str) -> list[str]:
    root = pathlib.Path(os.path.expanduser(data_dir)) if data_dir else None
    return sorted(p.name for p in root.iterdir() if p.is_dir()) if root and root.is_dir() else []


def _split(builder: Any, name: str) -> Any:
    splits = builder.info.splits
    try:
        split = splits[name]
    except (KeyError, ValueError, AssertionError) as e:
        raise UserError(f"{builder.info.full_name} has no split {name!r}{nearest(name, splits)} (its splits: "
                        f"{', '.join(splits)}): set source.split") from e
    if not split.num_examples:
        raise UserError(f"{builder.info.full_name} split {name!r} holds no example: set source.split")
    for instruction in split.file_instructions:
        if not os.path.isfile(instruction.filename):
            raise UserError(f"{builder.info.full_name}: file {instruction.filename} is missing; prepare the data set "
                            "again")
    return split


def _check_fields(builder: Any, config: Config) -> None:
    _check_field(builder, config.field, "source.field")
    if config.pairs:
        _check_field(builder, config.target_field, "source.target_field")


def _check_field(builder: Any, field: str, setting: str) -> None:
    feature, fields = builder.info.features, _fields(builder.info.features)
    for part in field.split("/"):
        if not isinstance(feature, tfds.features.FeaturesDict) and not hasattr(feature, "keys") or part not in feature:
            raise UserError(f"{builder.info.full_name} has no field {field!r}{nearest(field, fields)} (its fields: "
                            f"{', '.join(fields)}): set {setting}")
        feature = feature[part]


def _fields(features: Any, prefix: str = "") -> list[str]:
    found = []
    for name in features:
        inner = features[name]
        nested = isinstance(inner, tfds.features.FeaturesDict)
        found += _fields(inner, f"{prefix}{name}/") if nested else [prefix + name]
    return found


def _tfrecords(builder: Any, split: Any) -> Iterator[dict]:
    for instruction in split.file_instructions:
        records = grain.experimental.TFRecordIterDataset(str(instruction.filename))
        taken = itertools.islice(records, instruction.skip, instruction.skip + instruction.take)
        count = 0
        try:
            for record in taken:
                count += 1
                yield builder.info.features.deserialize_example_np(record)
        except ValueError as e:
            raise UserError(f"{instruction.filename} is damaged at record {instruction.skip + count} ({e}): prepare "
                            "the data set again") from e
        if count != instruction.take:
            raise UserError(f"{instruction.filename} ends after {instruction.skip + count} records of "
                            f"{instruction.skip + instruction.take}: prepare the data set again")


def _text(example: Any, field: str, where: str) -> str:
    for part in field.split("/"):
        example = example[part]
    if isinstance(example, str):
        return example
    if not isinstance(example, bytes):
        raise UserError(f"{where}: field {field!r} is a {type(example).__name__}, not text: choose another "
                        "source.field")
    try:
        return example.decode("utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"{where}: field {field!r} is not UTF-8 ({e.reason} at byte {e.start})") from e
