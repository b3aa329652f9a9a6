"""The picture of what the latents of a non-linear autoencoder hold."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from lae_jax.figures.style import colour


def ordered_latents(
    errors: Mapping[str, np.ndarray],
    variances: Mapping[str, np.ndarray],
    reference: np.ndarray,
    pca: np.ndarray,
    methods: Mapping[str, str],
    title: str,
) -> Figure:
    """Errors (k + 1,) against the number of kept latents b = 0..k, and variances (k,) of latents in their order.

    Both by label; `methods[label]` is the method whose colour it has. `reference` and `pca` are errors too.
    """
    figure = Figure((13, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    kept = np.arange(len(pca))
    left.plot(kept, pca, "--", color="0.4", label="PCA of the pixels, first b components")
    left.plot(
        *(kept, reference, "o"),
        **{"color": colour(next(iter(methods.values()))), "markersize": 8, "markerfacecolor": "none"},
        label=f"{next(iter(methods))}, its latents rotated to their principal axes afterwards",
    )
    for label, method in methods.items():
        left.plot(kept, errors[label], color=colour(method), marker=".", label=label)
        right.plot(kept[1:], variances[label] / np.sum(variances[label]), color=colour(method), marker=".")
    left.set(
        title="Reconstruction from the first b latents",
        xlabel="latents kept, b (the others at their mean)",
        ylabel="squared error of held-out samples / their variance",
        ylim=(0, None),
    )
    right.set(
        title="Variance of each latent",
        xlabel="latent",
        ylabel="share of the variance of all latents",
        yscale="log",
    )
    for axes, numbers in ((left, kept), (right, kept[1:])):
        axes.set_xticks(numbers[:: max(len(kept) // 16, 1)])
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure
