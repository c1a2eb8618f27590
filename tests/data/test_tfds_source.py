# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Data sets prepared by TFDS: array_record and tfrecord give the same documents, a wrong field says what there is."""
import shutil
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxlm.core.errors import UserError
from jaxlm.data.sources import tfds as source

TEXTS = [f"document {i} é" for i in range(25)]


class LocalBuilder(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    code_path = None  # to find it, TFDS needs importlib_resources, which it does not declare

    def _split_generators(self, dl_manager):
        return {name: iter(rows) for name, rows in self._split_datasets.items()}


def prepare(folder, name="corpus", texts=TEXTS):
    builder = LocalBuilder(
        name=name, version="1.0.0", data_dir=str(folder), file_format="array_record", disable_shuffling=True,
        features=tfds.features.FeaturesDict({
            "text": tfds.features.Text(), "label": np.int64,
            "pair": tfds.features.FeaturesDict({"en": tfds.features.Text()})}),
        split_datasets={"train": [(i, {"text": t, "label": i, "pair": {"en": t.upper()}})
                                  for i, t in enumerate(texts)]})
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder)
    return folder


def read(folder, **fields):
    return list(source.documents(source.Config(**({"dataset": "corpus", "data_dir": str(folder)} | fields))))


def test_array_record(data_dir):
    assert read(data_dir) == TEXTS
    assert read(data_dir, dataset=str(data_dir / "corpus" / "1.0.0"), data_dir="") == TEXTS
    assert read(data_dir, split="train[:20%]") == TEXTS[:5]
    assert read(data_dir, field="pair/en") == [t.upper() for t in TEXTS]


def test_tfrecord_gives_the_same_documents_over_all_shards(data_dir, tmp_path):
    """Fails if _tfrecords stops after the first file instruction."""
    builder = tfds.builder_from_directory(str(data_dir / "corpus" / "1.0.0"))
    raw = builder.as_data_source(split="train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    records = [raw[i] for i in range(len(raw))]
    folder = tmp_path / "corpus" / "1.0.0"
    folder.mkdir(parents=True)
    for file in ("dataset_info.json", "features.json"):
        shutil.copy(data_dir / "corpus" / "1.0.0" / file, folder)
    info = (folder / "dataset_info.json").read_text()
    info = info.replace('"array_record"', '"tfrecord"')
    start = info.index('"shardLengths"')
    stop = info.index("]", start)
    (folder / "dataset_info.json").write_text(info[:start] + '"shardLengths": ["15", "10"' + info[stop:])
    for shard, part in enumerate((records[:15], records[15:])):
        with open(folder / f"corpus-train.tfrecord-0000{shard}-of-00002", "wb") as f:
            for record in part:
                f.write(struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0))
    assert read(tmp_path) == TEXTS
    assert read(tmp_path, split="train[40%:80%]") == TEXTS[10:20]
    assert read(tmp_path, split="train[20:]+train[:2]") == TEXTS[20:] + TEXTS[:2]
    first, second = (source.fingerprint(source.Config(dataset="corpus", data_dir=str(d))) for d in (data_dir, tmp_path))
    assert first["examples"] == second["examples"] == 25 and first["content"] != second["content"]
    assert second["files"] == 2
    last = folder / "corpus-train.tfrecord-00001-of-00002"
    last.write_bytes(last.read_bytes()[:-7])
    with pytest.raises(UserError, match="00001-of-00002 is damaged at record 9"):
        read(tmp_path)
    last.unlink()
    with pytest.raises(UserError, match="00001-of-00002 is missing"):
        read(tmp_path)


@pytest.mark.parametrize("fields, words", [
    ({"dataset": "corpsu"}, "did you mean 'corpus'"), ({"split": "trian"}, "did you mean 'train'"),
    ({"field": "txt"}, "did you mean 'text'"), ({"field": "txt"}, "pair/en"),
    ({"field": "label"}, "is a int, not text"),
    ({"field": "text/en"}, "has no field 'text/en'"), ({"split": "train[:x]"}, "has no split"),
    ({"field": "pair"}, "is a dict, not text")])
def test_bad_fields_say_what_there_is(data_dir, fields, words):
    with pytest.raises(UserError) as e:
        read(data_dir, **fields)
    assert words in str(e.value)


def test_a_public_data_set_that_is_not_prepared_names_the_command(tmp_path):
    for name in ("imdb_reviews", "wikipedia/20230601.en"):  # the second is registered only when touched
        with pytest.raises(UserError, match="download_and_prepare") as e:
            list(source.documents(source.Config(dataset=name, data_dir=str(tmp_path))))
        assert str(tmp_path) in str(e.value)
    with pytest.raises(UserError, match="did you mean 'imdb_reviews'"):
        list(source.documents(source.Config(dataset="imdb_review", data_dir=str(tmp_path))))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="without dataset_info.json"):
        list(source.documents(source.Config(dataset=str(tmp_path / "empty"))))


def test_problems():
    assert source.Config(dataset="x").problems() == []
    assert len(source.Config(split="", field=" ").problems()) == 3
