# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rule tables: partitions from names, tables of one's own from the config, and the errors of both."""
import pytest
from jax.sharding import PartitionSpec as P

from jaxlm import build
from jaxlm.core.errors import UserError
from jaxlm.parallel import mesh, rules
from jaxlm.parallel.rules import Config


@pytest.mark.parametrize("name,kernel,activation", [
    ("dp", P(None, None), P(("data", "fsdp", "expert"), None, None)),
    ("fsdp", P("fsdp", None), P(("data", "fsdp", "expert"), None, None)),
    ("fsdp_seq", P("fsdp", None), P(("data", "fsdp", "expert"), "seq", None)),
    ("tp", P(None, "tensor"), P(("data", "fsdp", "expert"), None, "tensor")),
    ("fsdp_tp", P("fsdp", "tensor"), P(("data", "fsdp", "expert"), None, "tensor")),
])
def test_partitions(name, kernel, activation):
    """Fails if a table changes: take "mlp" out of _TENSOR_PARAMS. Experts are split under every rule."""
    found = rules.find(name)
    assert found.spec(("embed", "mlp")) == kernel
    assert found.spec(("batch", "seq", "act_mlp")) == activation
    assert found.spec(("expert", None, None)) == P("expert", None, None)
    assert found.spec(("layers", "norm", None)) == P(None, None, None)


@pytest.mark.parametrize("name", rules.RULES)
def test_tables_name_what_exists(name):
    """Fails if a table has a typing mistake, which would silently split nothing: write "vocabs" for "vocab"."""
    found = rules.find(name)
    assert found.name == name
    assert set(found.params) <= set(rules.PARAM_AXES) and set(found.acts) <= set(rules.ACT_AXES)
    assert found.used() <= set(mesh.AXES)


def test_parts():
    """Fails if only the first mesh axis of an entry counts."""
    sizes = {"data": 2, "fsdp": 3, "expert": 5, "seq": 7, "tensor": 11}
    found = rules.find("fsdp_seq")
    assert (found.parts("batch", sizes), found.parts("seq", sizes), found.parts("act_mlp", sizes)) == (30, 7, 1)


def test_unknown_axis():
    """Fails if a name that no table can hold is taken for "not split": drop the check of Rules.spec."""
    with pytest.raises(ValueError, match="unknown logical axis 'emebd', did you mean 'embed'"):
        rules.find("dp").spec(("emebd",))


def test_unknown_rules():
    with pytest.raises(UserError, match="none named 'fdsp', did you mean 'fsdp'.*custom"):
        rules.find("fdsp")


def test_a_table_of_ones_own():
    """Fails if entries of several mesh axes are not taken apart at '+'."""
    found = rules.find("custom", Config(("embed=fsdp", "mlp=tensor+seq"), ("batch=data+fsdp", "act_mlp=tensor")))
    assert found.spec(("embed", "mlp")) == P("fsdp", ("tensor", "seq"))
    assert found.spec(("batch", "seq", "act_mlp")) == P(("data", "fsdp"), None, "tensor")
    assert found.name == "custom" and found.used() == {"data", "fsdp", "tensor", "seq"}


@pytest.mark.parametrize("table,part", [
    (Config(("embd=fsdp",)), "no logical axis 'embd', did you mean 'embed'"),
    (Config(("embed=fdsp",)), "'embed=fdsp': there is no mesh axis 'fdsp', did you mean 'fsdp'"),
    (Config(("act_mlp=tensor",)), "table.params: there is no logical axis 'act_mlp'"),
    (Config(acts=("mlp=tensor",)), "table.acts: there is no logical axis 'mlp', did you mean 'act_mlp'"),
    (Config(("embed",)), "'embed': an entry is 'logical=mesh'"),
    (Config(("embed=",)), "an entry is"),
    (Config((3,)), "table.params has 3"),
    (Config(("embed=fsdp", "embed=tensor")), "names an axis a second time"),
    (Config(("embed=fsdp+fsdp",)), "names an axis a second time"),
])
def test_wrong_entries(table, part):
    """Fails if an entry that splits nothing goes through: return no problems from rules._read."""
    with pytest.raises(UserError) as caught:
        rules.find("custom", table)
    assert part in str(caught.value)


def test_one_axis_for_two_dimensions():
    """Fails if the table is handed to jax as it is: drop the check of Rules.spec."""
    found = rules.find("custom", Config(("embed=fsdp", "mlp=fsdp")))
    with pytest.raises(UserError, match=r"split two dimensions of an array \(embed, mlp\) over the mesh axis 'fsdp'"):
        found.spec(("embed", "mlp"))


def config_of(**changes):
    config = build.defaults()
    config.source.path = "x"
    config.train.batch_size = 8
    for name, value in changes.items():
        section, _, field = name.partition("_")
        if field:
            config[section][field] = value
        else:
            config[section] = value
    return config


def test_a_config_states_its_table():
    """Fails if build.layout_rules does not read the section: rules.find(config.rules)."""
    config = config_of(rules="custom", table_params=("embed=fsdp", "mlp=tensor"), mesh_fsdp=2, mesh_tensor=2)
    build.validate(config, devices=8)
    assert build.layout_rules(config).spec(("embed", "mlp")) == P("fsdp", "tensor")
    assert build.layout_rules(build.from_json(build.to_json(config))) == build.layout_rules(config)


@pytest.mark.parametrize("changes,part", [
    (dict(rules="custom", table_params=("embd=fsdp",)), "table.params: there is no logical axis 'embd', did you mean 'embed'"),
    (dict(table_params=("embed=fsdp",)), "table is set and rules is 'dp', which does not read it: set rules='custom'"),
    (dict(mesh_tensor=2), "mesh.tensor is 2 and rules 'dp' split nothing over it"),
    (dict(rules="custom", table_acts=()), "mesh.data is 8 and rules 'custom' split nothing over it"),
    (dict(rules="fsdp", mesh_fsdp=4, train_batch_size=12), "train.batch_size / train.accumulate is 12: it does not divide over "
     "data x fsdp = 8 groups"),
    (dict(rules="fsdp_seq", mesh_seq=8, data_seq_len=100), "data.seq_len is 100: it does not divide over the 8 parts"),
])
def test_a_config_is_checked(changes, part):
    """Fails if what rules and mesh ask of each other is not checked: return early from build._cross."""
    with pytest.raises(UserError) as caught:
        build.validate(config_of(**changes), devices=8)
    assert part in str(caught.value)


def test_rows_follow_the_rules():
    """A table that splits rows over data alone needs only its groups. Fails if rows are counted as data x fsdp."""
    changes = dict(rules="custom", table_params=("embed=fsdp",), mesh_fsdp=4, train_batch_size=2, eval_batch_size=2)
    build.validate(config_of(**changes, table_acts=("batch=data",)), devices=8)
    with pytest.raises(UserError, match="data x fsdp = 8 groups"):
        build.validate(config_of(**changes), devices=8)
