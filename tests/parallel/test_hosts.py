# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""1, 2, 4 and 8 hosts draw the same global batches in the same order, under every rule, each no more than its own rows."""
import jax
import numpy as np
import pytest

from jaxlm import build
from jaxlm.cli import experiment as experiments
from jaxlm.data import pipeline, sampler
from jaxlm.parallel import mesh, place, rules
from tests import families, tiny
from tests.test_equivalence import MESHES, layout_of

BATCH, STEPS = 16, (3, 7)
# Tables of one's own: rows in another order than devices, and rows that several hosts hold together.
OWN = {"turned": (("batch=tensor+data",), {"data": 2, "tensor": 4}), "shared": (("batch=data",), {"data": 2, "tensor": 4})}
# Into how many parts the rows are split.
PARTS = {"dp": 8, "fsdp": 8, "fsdp_seq": 4, "tp": 4, "fsdp_tp": 4, "turned": 8, "shared": 2}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(sampler, the objective's prepare) of a text."""
    folder = tmp_path_factory.mktemp("hosts")
    config = tiny.shrink(build.defaults(), tiny.write_text(folder / "text"), folder / "cache")
    _, corpus = experiments.text(config, folder)
    return sampler.Sampler(corpus.train, BATCH, seed=5), build.build(config, "objective").prepare


def layout(name: str) -> place.Layout:
    if name not in OWN:
        return layout_of(name)
    acts, sizes = OWN[name]
    return place.Layout(mesh.make(mesh.Config(**sizes)), rules.find("custom", rules.Config((), acts)))


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
@pytest.mark.parametrize("name", sorted({*MESHES, *OWN}))
def test_hosts_draw_one_batch(drawn, name, hosts):
    """Fails if rows are counted from a host's first (`np.arange(self.batch_size)[: rows.stop - rows.start]` in Sampler.indices),
    or a host draws the whole batch (`slice(0, rows)` in local_rows).

    A host is a part of the devices: which rows it draws is asked of the same function, and they are drawn by the same
    pipeline, as by a process that has no others. That processes are such parts is tests/test_processes.py.
    """
    most = same_rows(layout(name), *drawn, hosts)
    if name != "turned":  # whose hosts hold rows that lie apart
        assert most == BATCH // min(hosts, PARTS[name])


@pytest.mark.parametrize("family", ["bert", "transformer"])
def test_hosts_draw_one_batch_of_pairs(family, tmp_path):
    """Pairs of sentences, and sources with their targets. Fails if the other document is drawn by a row's number in the host's part:
    `i` for `numbers[i]` in Sampler.batch."""
    config = tiny.shrink(families.config_of(family), tiny.write_text(tmp_path / "text"), tmp_path / "cache")
    tokenizer, corpus = experiments.text(config, tmp_path)
    prepare = build.build(config, "objective", tokenizer.vocabulary).prepare
    assert same_rows(layout("fsdp"), sampler.Sampler(corpus.train, BATCH, seed=5), prepare, 4) == 4


def same_rows(here: place.Layout, source: sampler.Sampler, prepare, hosts: int) -> int:
    """Every row of some batches is that of the whole batch, whichever host draws it; the most rows that a host draws."""
    with pipeline.batches(source, prepare, *STEPS) as whole:
        expected = list(whole)
    devices, most = jax.devices(), 0
    found = [{} for _ in expected]
    for host in range(hosts):
        mine = devices[host * 8 // hosts:(host + 1) * 8 // hosts]
        rows = place.local_rows(here, BATCH, mine)
        needed = {row for device, at in place.batch_sharding(here, 1).devices_indices_map((BATCH,)).items() if device in mine
                  for row in range(BATCH)[at[0]]}
        assert needed <= set(range(BATCH)[rows])
        most = max(most, rows.stop - rows.start)
        with pipeline.batches(source, prepare, *STEPS, rows, prefetch=0) as batches:
            for index, (step, batch) in enumerate(batches):
                assert step == STEPS[0] + index
                for i, row in enumerate(range(BATCH)[rows]):
                    one = {field: x[i] for field, x in batch.items()}
                    for other in found[index].setdefault(row, [one]):
                        assert all(np.array_equal(other[field], x) for field, x in one.items())
    for (_, batch), rows in zip(expected, found, strict=True):
        assert sorted(rows) == list(range(BATCH))
        for row, [one] in rows.items():
            for field, x in batch.items():
                np.testing.assert_array_equal(one[field], x[row], err_msg=field)
    return most
