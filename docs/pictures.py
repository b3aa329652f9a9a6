"""The pictures of the README and the site that no launcher draws: python -m docs.pictures [methods | theory].

MNIST, k = 20: the columns of the decoder under the plain gradient, RAG and the recommended rule, from the same initial
weights, at steps spaced evenly on a logarithmic axis. Needs no samples; about half a minute on two cores.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from docs.render import read
from lae_jax.data import datasets
from lae_jax.figures.dynamics import image_grid
from lae_jax.methods import METHODS
from lae_jax.metrics import axis_alignment
from lae_jax.training import loop
from lae_jax.training.settings import Settings, build, resolve

PICTURES = Path(__file__).parent / "pictures"
LATENT_DIM, LAST_STEP, FRAMES, FRAMES_PER_SECOND, COLOURS = 20, 10_000, 48, 10, 16
SMALL, WIDTH = ["--config.latent_dims=(2, 4, 6, 8, 12)", "--config.matrix_free=()", "--config.rate_latent_dim=0"], 1400
SHOWN = {"lae": "plain gradient of Eq. (1)", "rag": "rotation augmented gradient", "aligned": "aligned descent"}


def decoders(dataset: datasets.Dataset, method: str, steps: list[int]) -> list[np.ndarray]:
    """W2 (m, k) of one run at these steps."""
    settings, _ = resolve(Settings(method=method, latent_dim=LATENT_DIM), dataset)
    run = build(settings, dataset)
    state, found = run.state, []
    for stop in steps:
        for reached, _ in loop.train(run.recipe, run.problem, state, stop, record_every=LAST_STEP):
            state = reached
        found.append(np.asarray(run.in_input_coordinates(state.params).decoder))
    return found


def animation(path: Path) -> None:
    """Draw and write the picture."""
    jax.config.update("jax_default_matmul_precision", "highest")
    dataset = datasets.mnist()
    components = dataset.components[:, :LATENT_DIM]
    steps = [0, *np.unique(np.round(np.logspace(0, np.log10(LAST_STEP), FRAMES)).astype(int)).tolist()]
    columns = {method: decoders(dataset, method, steps) for method in SHOWN}
    figure = Figure(figsize=(7.6, 2.75), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    panels, pictures = figure.subplots(1, len(SHOWN)), []
    for panel, label in zip(panels, SHOWN.values(), strict=True):
        panel.set(xticks=[], yticks=[])
        panel.set_title(label, fontsize=10)
        pictures.append(panel.imshow(np.zeros((4 * 28, 5 * 28)), cmap="RdBu_r", vmin=-1, vmax=1))
    told = figure.suptitle("")
    below = [panel.set_xlabel("", fontsize=9) for panel in panels]

    def draw(frame: int) -> None:
        told.set_text(f"the 20 decoder columns on MNIST after {steps[frame]:,} steps")
        for picture, text, method in zip(pictures, below, SHOWN, strict=True):
            decoder = columns[method][frame]
            lengths = np.maximum(np.abs(decoder).max(axis=0), 1e-30)
            picture.set_data(image_grid(decoder / lengths, (28, 28), 5))
            text.set_text(f"distance to principal components: {float(axis_alignment(decoder, components)):.2f}")

    frames = []
    for frame in range(len(steps)):
        draw(frame)
        figure.canvas.draw()
        image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")  # type: ignore[attr-defined] # of Agg's canvas
        frames.append(image.quantize(COLOURS, dither=Image.Dither.NONE))
    path.parent.mkdir(exist_ok=True)
    times = [1000 // FRAMES_PER_SECOND] * (len(frames) - 1) + [2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)


def method_pages() -> None:
    """A picture for each deterministic method: its alignment among the others', and U^T W2 at the end.

    Every method has the learning rate that docs/results/rules.csv found best.
    """
    jax.config.update("jax_default_matmul_precision", "highest")
    dataset = datasets.mnist()
    components = dataset.components[:, :LATENT_DIM]
    rates = {row["method"]: float(row["learning_rate"]) for row in read("rules") if row["dataset"] == "mnist"}
    ends, histories = {}, {}
    for method, rate in rates.items():
        chosen = Settings(method=method, latent_dim=LATENT_DIM, learning_rate=rate / float(dataset.variances[0]))
        run = build(resolve(chosen, dataset)[0], dataset)
        chunks = list(loop.train(run.recipe, run.problem, run.state, 3_000))
        histories[method], state = loop.concatenate([rows for _, rows in chunks]), chunks[-1][0]
        ends[method] = components.T @ np.asarray(run.in_input_coordinates(state.params).decoder)
    for method, end in ends.items():
        figure = Figure(figsize=(8, 3.2), dpi=90, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.9, 1])
        for other in sorted(histories, key=lambda name: name == method):
            shown = {"color": "tab:red", "linewidth": 2.2} if other == method else {"color": "0.8", "linewidth": 1}
            history = histories[other]
            left.plot(history["step"], np.maximum(history["axis_alignment"], 1e-6), **shown)
        left.set(xscale="log", yscale="log", xlabel="step", ylabel="axis alignment (lower is better)", ylim=(5e-7, 1.2))
        left.set_title(f"red: {METHODS[method].label}; grey: the other methods", fontsize=10)
        right.imshow(end / np.maximum(np.abs(end).max(), 1e-30), cmap="RdBu_r", vmin=-1, vmax=1)
        right.set(xticks=[], yticks=[], xlabel="latent", ylabel="component")
        right.set_title("decoder, step 3,000", fontsize=10)
        figure.savefig(PICTURES / f"method_{method}.png")


def theory_pages() -> None:
    """What `launch.hessian`, on three spectra up to k = 12, and `launch.landscape` draw."""
    flags = {
        "hessian": ("condition_numbers", ['--config.spectra=("mnist", "linear", "power_law")', *SMALL]),
        "landscape": ("landscape", []),
    }
    for launcher, (picture, given) in flags.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", f"launch.{launcher}", f"--workdir={folder}", *given]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            drawn = Image.open(Path(folder) / f"{picture}.png").convert("RGB")
        drawn = drawn.resize((WIDTH, WIDTH * drawn.height // drawn.width), Image.Resampling.LANCZOS)
        drawn.quantize(256, dither=Image.Dither.NONE).save(PICTURES / f"{picture}.png", optimize=True)


if __name__ == "__main__":
    if "theory" in sys.argv:
        theory_pages()
        sys.exit()
    if "methods" in sys.argv:
        method_pages()
        sys.exit()
    animation(PICTURES / "decoders.gif")
    print(f"wrote {PICTURES / 'decoders.gif'} ({(PICTURES / 'decoders.gif').stat().st_size / 2**20:.2f} MiB)")
