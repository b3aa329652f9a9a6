"""Samples cut by rows and by columns over devices, and what these tell each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lae_jax import objectives
from lae_jax.data import layouts
from lae_jax.errors import InputError
from lae_jax.training.communication import Collective, collectives
from lae_jax.training.merging import merged
from tests.helpers import normal, on_devices, random_params

SPREAD = """
import functools, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np

jax.config.update("jax_enable_x64", True)
from lae_jax.data import datasets, layouts
from lae_jax.runs import directory as runs
from lae_jax import METHODS, fit_stream
from lae_jax.training import communication, loop as training, settings as experiment

rows = np.random.default_rng(0).standard_normal((50, 8)) * np.arange(8, 0, -1)  # 50 rows on 3 devices
meshes = [layouts.mesh_of(jax.devices()[:n], 8) for n in (1, 3)]
one, spread = (layouts.spread_rows(lambda part: rows[part], rows.shape, rows.dtype, mesh) for mesh in meshes)
assert [shard.data.shape for shard in spread.rows.addressable_shards] == [(17, 8)] * 3
other = np.random.default_rng(1).standard_normal((8, 2))
close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
close(spread @ other, one @ other)
close(spread.trace, one.trace)

dataset = datasets.from_samples("rows", rows)
for fields in (dict(method="nested_dropout"), dict(method="rag", batch_size=7)):
    settings = experiment.Settings(latent_dim=2, precision="float64", init_scale=0.1, **fields)
    settings, _ = experiment.resolve(settings, dataset)
    ends = []
    for devices in (jax.devices()[:1], jax.devices()[:3]):
        run = experiment.build(settings, dataset, devices)
        *_, (state, history) = training.train(run.recipe, run.problem, run.state, 30)
        ends.append((run.in_input_coordinates(state.params), history["loss"]))
    jax.tree.map(close, *ends)
    if fields.get("method") == "nested_dropout":
        text = jax.jit(training.step, static_argnums=0).lower(run.recipe, run.problem, run.state).compile().as_text()
        assert "all-reduce" in text and "f32[17,8]" in text.replace("f64", "f32"), text

# A run on several devices that goes on from its checkpoint.
np.save(Path(sys.argv[1]) / "rows.npy", rows)
whole = runs.RunConfig(dataset=f"{sys.argv[1]}/rows.npy", method="nested_dropout", latent_dim=2, num_steps=40)
workdir = Path(sys.argv[1]) / "run"
runs.execute(whole, workdir)
expected = (workdir / "params.npz").read_bytes()
(workdir / "params.npz").unlink()
assert runs.execute(whole, workdir) and (workdir / "params.npz").read_bytes() == expected

# Inputs cut over devices: every method, all of them in one program for each number of parts; what is exchanged.
rows = np.random.default_rng(0).standard_normal((30, 24)) * np.linspace(8, 1, 24)
dataset = datasets.from_samples("rows", rows)


def built(parts, method, representation):
    settings = experiment.Settings(
        method, 3, representation=representation, precision="float64", init_scale=0.1, column_parts=parts
    )
    return experiment.build(experiment.resolve(settings, dataset)[0], dataset, jax.devices()[:parts])


ends = []
for parts in (1, 2, 8):
    every = {method: built(parts, method, "samples") for method in METHODS}
    step = jax.jit(lambda given: {name: training.step(every[name].recipe, *given[name]) for name in every})
    states = {name: run.state for name, run in every.items()}
    for _ in range(3):
        states = step({name: (run.problem, states[name]) for name, run in every.items()})
    for name, run in every.items():
        cut = [states[name].params.encoder, states[name].params.decoder]
        shapes = [leaf.addressable_shards[0].data.shape for leaf in cut]
        assert shapes == [(3, 24 // parts), (24 // parts, 3)], (name, shapes)
    ends.append({name: run.in_input_coordinates(states[name].params) for name, run in every.items()})
    for name in METHODS:
        jax.tree.map(functools.partial(close, err_msg=f"{name}, {parts} parts"), ends[0][name], ends[-1][name])
for method, representation in (("rag", "dense"), ("aligned", "eigenbasis")):
    ends = []
    for parts in (1, 8):
        run = built(parts, method, representation)
        *_, (state, history) = training.train(run.recipe, run.problem, run.state, 2)
        ends.append((run.in_input_coordinates(state.params), history))
    jax.tree.map(close, *ends)
batches = np.random.default_rng(1).standard_normal((4, 20, 24)) * np.linspace(8, 1, 24)
ends = [fit_stream(batches, 2, precision="float64", progress=False, column_parts=parts) for parts in (1, 2)]
close(ends[0].components.components, ends[1].components.components)
layouts = ("samples, columns", "samples, columns", "covariance, columns", "samples, rows")
for layout, devices in zip(layouts, (2, 8, 4, 2)):
    row = communication.measure("aligned", layout, dataset, jax.devices()[:devices], 3, 5)
    assert row["product"] == row["formula"] > 0 and row["columns"] == 6, row
    assert row["exchanges"] <= 2 and row["small"] <= 3 * 3**2, row
print("same")
"""


def test_samples_on_several_devices_and_on_one(tmp_path):
    done = on_devices(8, SPREAD, tmp_path)
    assert done.stdout.endswith("same\n"), done.stderr


def test_equal_products_are_taken_once():
    params, covariance = random_params(0, 2, 5), jnp.asarray(normal(1, 5, 5))

    def loss_and_gradient(params, covariance):
        return jax.value_and_grad(objectives.reconstruction)(params, covariance), covariance @ params.decoder

    once = merged(loss_and_gradient)
    jax.tree.map(
        lambda one, other: np.testing.assert_array_equal(one, other),
        once(params, covariance),
        loss_and_gradient(params, covariance),
    )
    products = [
        str(jax.make_jaxpr(function)(params, covariance)).count("f64[5,4] = dot_general")
        for function in (loss_and_gradient, once)
    ]
    assert products == [2, 1]


PROGRAM = """
  %a = f32[16,3]{1,0} all-reduce(%b), channel_id=1
  %c = (f64[3,3]{0,1}, f64[]) all-reduce-start(%d, %e), channel_id=2
  %f = f32[16,6]{1,0} all-gather(%g), dimensions={0}
  %h = f32[16,3]{1,0} add(%a, %all-reduce.2)
"""


def test_what_a_program_exchanges():
    expected = [("all-reduce", (48,)), ("all-reduce", (9, 1)), ("all-gather", (96,))]
    assert collectives(PROGRAM) == [Collective(*each) for each in expected]


@pytest.mark.parametrize(
    ("devices", "inputs", "parts", "message"),
    [
        (1, 8, 2, "column_parts: 2: must divide the number of devices, 1"),
        (2, 8, 0, "column_parts: 0: must divide"),
        (4, 6, 4, "column_parts: 4 equal parts of 6 inputs there are not; take 2, or leave 2 of the inputs out"),
    ],
)
def test_inputs_that_cannot_be_cut(devices, inputs, parts, message):
    with pytest.raises(InputError, match=message):
        layouts.mesh_of(jax.devices()[:1] * devices, inputs, parts)
