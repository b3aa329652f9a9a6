from tests.helpers import on_devices

SPREAD = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np

jax.config.update("jax_enable_x64", True)
from lae_jax.data import datasets, layouts
from lae_jax.runs import directory as runs
from lae_jax.training import loop as training, settings as experiment

rows = np.random.default_rng(0).standard_normal((50, 8)) * np.arange(8, 0, -1)  # 50 rows on 3 devices
meshes = [layouts.mesh_of(jax.devices()[:n], 8) for n in (1, 3)]
one, spread = (layouts.spread_rows(lambda part: rows[part], rows.shape, rows.dtype, mesh) for mesh in meshes)
assert [shard.data.shape for shard in spread.rows.addressable_shards] == [(17, 8)] * 3
other = np.random.default_rng(1).standard_normal((8, 2))
close = lambda first, second: np.testing.assert_allclose(first, second, rtol=1e-12, atol=1e-12)
close(spread @ other, one @ other)
close(spread.trace, one.trace)

dataset = datasets.from_samples("rows", rows)
for fields in (dict(method="nested_dropout"), dict(method="rag", batch_size=7)):
    settings = experiment.Settings(latent_dim=2, precision="float64", init_scale=0.1, **fields)
    settings, _ = experiment.resolve(settings, dataset)
    ends = []
    for devices in (jax.devices()[:1], None):
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
print("same")
"""


def test_samples_on_three_devices_and_on_one(tmp_path):
    done = on_devices(3, SPREAD, tmp_path)
    assert done.stdout.endswith("same\n"), done.stderr
