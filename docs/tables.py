"""The tables of the README and the site, each a function of the csv files in docs/results."""

from collections.abc import Callable

from docs.render import markdown, number, read
from lae_jax.methods import METHODS
from lae_jax.training.limits import RULES


def label(method: str, optimizer: str) -> str:
    """A method under an optimiser, as the tables name it."""
    return f"{METHODS[method].label}, {optimizer.capitalize()}"


def figure4() -> str:
    """Steps to axis alignment 0.3: ours from the authors' draws / published = their ratio."""
    rows = [row for row in read("figure4") if row["published"]]
    sizes = list(dict.fromkeys(row["latent_dim"] for row in rows if row["method"] == "rag"))
    curves: dict[str, dict[str, str]] = {}
    for row in rows:
        steps = f"{number(row['authors_draws'], ',.0f')} / {number(row['published'], ',.0f')}"
        cell = f"{steps} = {number(row['ratio'], '.2f')}"
        curves.setdefault(label(row["method"], row["optimizer"]), {})[row["latent_dim"]] = cell
    body = [[name, *(cells.get(size, "") for size in sizes)] for name, cells in curves.items()]
    return markdown(["ours / published = ratio", *(f"k = {size}" for size in sizes)], body)


def figure4_agreement() -> str:
    """How near to the published points of Figure 4 ours are, in a sentence."""
    rows = [row for row in read("figure4") if row["ratio"]]
    coarse = [float(row["ratio"]) for row in rows if row["latent_dim"] == "2"]
    others = [float(row["ratio"]) for row in rows if row["latent_dim"] != "2"]
    return (
        f"From the authors' own draws, the {len(others)} points of Figure 4 with k >= 5 take {min(others):.2f} to "
        f"{max(others):.2f} times the published steps.\n"
        f"At k = 2, where its axis is coarse, {len(coarse)} points take {min(coarse):.2f} to {max(coarse):.2f} times."
    )


def figure4_seeds() -> str:
    """The same from twenty other initial weights: median, lowest to highest, beside the published one."""
    rows = read("figure4_seeds")
    sizes = list(dict.fromkeys(row["latent_dim"] for row in rows))
    curves: dict[str, dict[str, str]] = {}
    for row in rows:
        span = " to ".join(number(row[name], ",.0f") or "never" for name in ("lowest", "highest"))
        published = f"; published {number(row['published'], ',.0f')}" if row["published"] else ""
        cell = f"{number(row['median'], ',.0f') or 'never'} ({span}{published})"
        curves.setdefault(METHODS[row["method"]].label, {})[row["latent_dim"]] = cell
    body = [[name, *(cells.get(size, "") for size in sizes)] for name, cells in curves.items()]
    return markdown(["Nesterov", *(f"k = {size}" for size in sizes)], body)


def figure2() -> str:
    """Axis alignment on MNIST after 30,000 steps: ours from the authors' initial weights / published."""
    last = [row for row in read("figure2") if row["step"] == "30000"]
    ends = {(row["method"], row["optimizer"]): row for row in last}
    body = []
    for method in dict.fromkeys(method for method, _ in ends):
        cells = []
        for optimizer in ("nesterov", "adam"):
            row = ends.get((method, optimizer), {})
            ours, published = (number(row.get(name, ""), ".3f") for name in ("authors_draws", "published"))
            cells += [ours or "-", published or "-"]
        body.append([METHODS[method].label, *cells])
    return markdown(["k = 20", "Nesterov", "published", "Adam", "published"], body)


def rules() -> str:
    """Steps on MNIST until each axis alignment, at the best of seven learning rates, and what a step costs."""
    rows = [row for row in read("rules") if (row["dataset"], row["latent_dim"]) == ("mnist", "20")]
    targets = ("0.3", "0.1", "0.01", "0.001")
    rows.sort(key=lambda row: [float(row[f"steps_{target}"] or "inf") for target in reversed(targets)])
    body = [
        [
            METHODS[row["method"]].label,
            number(row["learning_rate"], ".3g"),
            *(number(row[f"steps_{target}"], ",.0f") or "-" for target in targets),
            number(row["dense_step_us"], ".0f"),
        ]
        for row in rows
    ]
    return markdown(["rule", "learning rate x sigma_1^2", *targets, "microseconds a step, dense"], body)


def communication() -> str:
    """What a step exchanges, for every rule and layout; one row where device counts make no difference."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in read("communication"):
        counts = tuple(number(row[name], ",.0f") for name in ("exchanges", "product", "columns", "batch", "small"))
        found.setdefault((METHODS[row["method"]].label, row["layout"], *counts), []).append(row["devices"])
    body = [[*cells[:2], ", ".join(devices), *cells[2:]] for cells, devices in found.items()]
    return markdown(["rule", "layout", "devices", "exchanges", "product", "w", "batch", "others"], body)


def scales() -> str:
    """How far the alignment of a run differs from that at scale 1, at the worst of thirteen scales."""
    rows = read("scales")
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    worst = {(row["method"], row["dataset"]): number(row["worst_difference"], ".0e") for row in rows}
    methods = dict.fromkeys(row["method"] for row in rows)
    body = [[METHODS[method].label, *(worst[method, name] for name in names)] for method in methods]
    return markdown(["method", *(name.replace("_", " ") for name in names)], body)


def streams(timed: str, *names: str) -> Callable[[], str]:
    """Distance to the components over that of the eigenvectors of the same samples; times are of one population."""

    def table() -> str:
        rows = [row for name in names for row in read(name)]
        lengths = list(dict.fromkeys((row["population"], row["num_batches"]) for row in rows))
        found = {(row["rule"], row["population"], row["num_batches"]): row for row in rows}
        body = []
        for rule in dict.fromkeys(row["rule"] for row in rows if row["rule"] != "limit"):
            label = RULES[rule].label if rule in RULES else METHODS[rule].label
            here = [found.get((rule, *each)) for each in lengths]
            costs = next((row for row in reversed(here) if row and row["population"] == timed), None)
            body.append(
                [
                    label,
                    *(
                        number(row["ratio"], ".3f" if float(row["ratio"]) < 2 else ".1f") if row else "-"
                        for row in here
                    ),
                    number(costs["microseconds"], ",.0f") if costs else "-",
                    number(costs["kibibytes"], ",.0f") if costs else "-",
                ]
            )
        heads = [f"{population.replace('_', ' ')}, {int(count):,} batches" for population, count in lengths]
        return markdown(["rule", *heads, "microseconds a batch", "KiB kept"], body)

    return table


def streams_drift() -> str:
    """Tracking of a stream that turns, by the low-rank history and by a window of twice as many samples as count."""
    body = [
        [
            number(row["counted"], ",.0f"),
            *(number(row[name], ".4f") for name in ("low_rank_history", "sliding_window")),
            number(row["ratio"], ".2f"),
        ]
        for row in read("streams_drift")
    ]
    return markdown(["samples that count", "low-rank history", "sliding window", "ratio"], body)


def krylov_steps() -> str:
    """Steps of alternation until a target, least, median and most over the starts, with and without spare latents."""
    cells: dict[tuple[str, ...], list[str]] = {}
    for row in read("krylov_steps"):
        steps = f"{row['least']}, {number(row['median'], '.0f')}, {row['most']}"
        about = (row["dataset"], row["latent_dim"], row["precision"], row["target"], row["starts"])
        cells.setdefault(about, []).append(steps)
    return markdown(
        ["data", "k", "precision", "target", "starts", "with spare latents", "without"],
        [[*about, *steps] for about, steps in cells.items()],
    )


def noise_floor() -> str:
    """Where stochastic nested dropout settles, measured over predicted."""
    body = [
        [
            row["optimizer"],
            row["learning_rate"],
            number(row["axis_alignment"], ".2e"),
            number(row["ratio_axis_alignment"], ".3f"),
            number(row["subspace_distance"], ".2e"),
            number(row["ratio_subspace_distance"], ".3f"),
        ]
        for row in read("noise_floor")
    ]
    heads = ["optimiser", "learning rate", "axis alignment", "/ predicted", "subspace distance", "/ predicted"]
    return markdown(heads, body)


def plain(name: str, chosen: Callable[[str], bool] = lambda what: True) -> Callable[[], str]:
    """A table as it is recorded, or the rows of it whose first column is chosen."""

    def table() -> str:
        rows = read(name)
        return markdown(list(rows[0]), [cells for cells in map(list, map(dict.values, rows)) if chosen(cells[0])])

    return table


def _is_of_solvers(what: str) -> bool:
    return "eigsh" in what or what.startswith("fit_stream")


TABLES: dict[str, Callable[[], str]] = {
    "benchmark": plain("benchmark", lambda what: not _is_of_solvers(what)),
    "figure4_agreement": figure4_agreement,
    "figure4_seeds": figure4_seeds,
    "noise_floor": noise_floor,
    "solvers": plain("benchmark", _is_of_solvers),
    "streams": streams("power_law_200", "streams"),
    "streams_drift": streams_drift,
    "streams_eigengame": streams("eigengame", "streams_eigengame"),
    "streams_large": streams("mnist", "streams_mnist", "streams_long", "streams_wide"),
    "krylov_steps": krylov_steps,
    "communication": communication,
    "figure2": figure2,
    "figure4": figure4,
    "rules": rules,
    "scales": scales,
    "speed": plain("speed"),
}
