"""Every Python block of every page under docs/ is run, each by itself; what a block promises it asserts."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
BLOCKS = {
    f"{page.name}:{text[: match.start()].count(chr(10)) + 1}": match[1]
    for page in sorted(DOCS.glob("**/*.md"))
    for text in [page.read_text()]
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M)
}


@pytest.mark.parametrize("where", BLOCKS)
def test_the_block_runs_and_keeps_its_promises(where):
    exec(compile(BLOCKS[where], where, "exec"), {"__name__": "__main__"})


def test_there_are_blocks():
    assert any(where.startswith("your_model.md") for where in BLOCKS)
