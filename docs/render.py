"""Tables and numbers of the README and the site, from the csv files in docs/results.

    python -m docs.render [--check]

A page holds `<!-- table NAME -->` ... `<!-- end -->`, filled with a row of TABLES below, and for a number in a sentence
`<!-- value FILE key=value,... COLUMN FORMAT -->1,234<!-- end -->`: the cell of docs/results/FILE.csv in the one row
that has these values. `--check` writes nothing and ends with status 1 where a page says something else than its csv.
What made a csv (command, commit, date, machine, versions, seconds) is in the .json beside it; `docs.record` writes
both.
"""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"
PAGES = [DOCS.parent / "README.md", *sorted(page for page in DOCS.glob("**/*.md") if "_build" not in page.parts)]
BLOCK = re.compile(r"(<!-- (table|value) ([^>]*?) -->)(.*?)(<!-- end -->)", re.S)

Row = dict[str, str]


def read(name: str) -> list[Row]:
    """The rows of docs/results/NAME.csv."""
    with open(RESULTS / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def about(name: str) -> dict[str, object]:
    """What made docs/results/NAME.csv."""
    found: dict[str, object] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(text: str, spec: str = "") -> str:
    """A cell as it is shown: `spec` is a format of Python; an empty cell stays empty."""
    return format(float(text), spec) if text and spec else text


def value(arguments: str) -> str:
    """One cell: FILE key=value,... COLUMN [FORMAT]. A FORMAT of `json` reads the .json beside the csv instead.

    A command is shown as code.
    """
    name, where, column, *spec = arguments.split()
    if spec == ["json"]:
        return f"`{about(name)[column]}`" if column == "command" else str(about(name)[column])
    wanted = dict(pair.split("=", 1) for pair in where.split(",") if pair != "*")
    found = [row for row in read(name) if wanted.items() <= row.items()]
    if len(found) != 1:
        raise SystemExit(f"{arguments}: {len(found)} rows of {name}.csv, must be one")
    return number(found[0][column], *spec) or "-"


def filled(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """A page with every block made anew."""

    def fill(match: re.Match[str]) -> str:
        begin, kind, arguments, _, end = match.groups()
        if kind == "value":
            return f"{begin}{value(arguments)}{end}"
        return f"{begin}\n{tables[arguments]()}\n{end}"

    return BLOCK.sub(fill, text)


def main() -> int:
    """Fill every page, or with --check say which would change."""
    from docs.tables import TABLES

    stale = []
    for page in PAGES:
        text = page.read_text()
        renewed = filled(text, TABLES)
        if renewed != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(renewed)
    if stale and "--check" in sys.argv:
        print(f"not as docs/results says: {', '.join(stale)}; run python -m docs.render", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
