"""Every page under docs/ does what it says: its blocks are run in their order, in a folder that stands for a checkout.

A ```python block is run by itself; what it promises it asserts. The commands of a ```sh block are run, each to status 0
unless a ```text block that follows shows `error: ...` (status 1) or the output of `echo $?`. Every line of that ```text
block is printed, with anything for `...`. Of commands under `<!-- not run: REASON -->` only the flags are read, and
what is shown as their output must be text of a launcher.
"""

import contextlib
import itertools
import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from lae_jax.data.datasets import DATASETS
from lae_jax.methods import METHODS, OPTIMIZERS
from lae_jax.theory.bounds import BOUNDS
from tests import launching

DOCS = launching.ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<content>.*?)^```", re.S | re.M
)
STARTED_BY_OTHERS = {"pip", "tensorboard"}  # commands of a page that are not this project's


class Shell:
    """As much of a shell as the pages use: `python -m launch.NAME ... [&]`, `kill %1`, `wait %1`, `echo $?`."""

    def __init__(self, folder):
        self.folder, self.programs, self.job = folder, folder / "results" / "programs", None
        self.begin()

    def begin(self):
        """Forget what was said."""
        self.said, self.statuses = "", []

    def close(self):
        """Leave no job behind, if a page that fails has not told it to end."""
        if self.job is not None:
            self.job.join(10)
            self.job.kill()
            self.job.join()

    def run(self, line):
        words = shlex.split(line)
        match words:
            case ["python", "-m", name, *arguments, "&"]:
                self._begin(name, arguments)
            case ["python", "-m", name, *arguments]:
                self._ended(*launching.launch(self._known(name), *self._cached(arguments), folder=self.folder))
            case ["kill", "%1"]:
                os.kill(self.job.pid, signal.SIGTERM)
            case ["wait", "%1"]:
                self.job.join()
                self._ended(self.job.exitcode, "", self.told.read_text())
            case ["echo", "$?"]:
                self.said += f"{self.statuses[-1]}\n"
            case _:
                raise AssertionError(f"not a command that a page may have: {line}")

    def _begin(self, name, arguments):
        self.told = self.folder / "told.txt"
        self.job = launching.start(self._known(name), self._cached(arguments), self.told, self.told, self.folder)
        (workdir,) = (argument.split("=")[1] for argument in arguments if argument.startswith("--workdir="))
        while not (self.folder / workdir / "metrics.csv").exists():
            assert self.job.is_alive(), self.told.read_text()
            time.sleep(0.02)

    def _known(self, name):
        package, _, name = name.partition(".")
        assert package == "launch" and name in launching.NAMES
        return name

    def _cached(self, arguments):
        given = any(argument.startswith("--compilation_cache") for argument in arguments)
        return arguments if given else [*arguments, f"--compilation_cache={self.programs}"]

    def _ended(self, status, stdout, stderr):
        self.statuses.append(status)
        self.said += stdout + stderr.replace("\r", "\n")
        assert "Traceback" not in stderr, stderr


def page(name):
    return (DOCS / name).read_text()


def commands(block):
    """One each of the commands of an sh block."""
    return [command for line in block.replace("\\\n", " ").splitlines() for command in re.split(";", line) if command]


def shown_after(block):
    return block["content"] if block and block["language"] == "text" else ""


def run(block, following, shell):
    shell.begin()
    shown = shown_after(following)
    for command in commands(block):
        shell.run(command)
    if "echo $?" not in block:
        *before, last = shell.statuses
        assert not any(before) and last == int("error: " in shown), f"{block}\n{shell.statuses}\n{shell.said}"
    said = shell.said.splitlines()
    for line in shown.splitlines():
        pattern = re.escape(line).replace(re.escape("..."), ".*")
        assert any(re.fullmatch(pattern, each) for each in said), f"{line}\nis not in\n{shell.said}"


def read_flags(block, following, folder):
    for command in commands(block):
        words = shlex.split(command)
        if words[0] == "python":
            done = launching.launch(words[2].removeprefix("launch."), *words[3:], folder=folder, flags_only=True)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
        else:
            assert words[0] in STARTED_BY_OTHERS, command
    code = "".join(path.read_text() for path in (launching.ROOT / "launch").glob("*.py"))
    for piece in re.split(r"\.\.\.|\n", shown_after(following)):
        assert piece in code


@pytest.fixture
def tables():
    """Pages add rows of their own, which the next test is not to see."""
    before = [(table, dict(table)) for table in (METHODS, OPTIMIZERS, DATASETS)]
    yield
    for table, rows in before:
        table.clear()
        table.update(rows)


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("launch").symlink_to(launching.ROOT / "launch")
    text = page(name)
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == len(re.findall(r"^```\w", text, re.M))
    with contextlib.closing(Shell(tmp_path)) as shell:
        for block, following in itertools.zip_longest(blocks, blocks[1:]):
            content, where = block["content"], f"{name}:{text[: block.start('content')].count(chr(10))}"
            if block["reason"]:
                read_flags(content, following, tmp_path)
            elif block["language"] == "python":
                exec(compile(content, where, "exec"), {"__name__": "__main__"})
            elif block["language"] == "sh":
                run(content, following, shell)
    for table in tmp_path.glob("results/*/hessian.csv"):
        assert not [column for column in table.read_text().splitlines()[0].split(",") if f"`{column}`" not in text]


def test_commands_within_sentences_and_tables_are_read(tmp_path):
    """Those between backticks of the README, the site and the tutorials, and all of the pages of methods."""
    (tmp_path / "launch").symlink_to(launching.ROOT / "launch")
    commands = set()
    for path in (launching.ROOT / "README.md", *DOCS.rglob("*.md"), *DOCS.glob("tutorials/*.ipynb")):
        text = path.read_text().replace("\\\n", " ").replace('\\"', '"')
        commands |= set(re.findall(r"`python -m launch\.([a-z][^`\n]*)`", text))
        if path.name not in PAGES:
            commands |= set(re.findall(r"(?:^|&& )python -m launch\.([a-z].*)", text, re.M))
    assert len(commands) > 20
    for name, *flags in map(shlex.split, sorted(commands)):
        assert name in launching.NAMES, name
        if fields := [flag for flag in flags if not flag.startswith("--workdir=")]:
            done = launching.launch(name, "--workdir=results", *fields, folder=tmp_path, flags_only=True)
            assert done.returncode == 0, f"{name} {flags}\n{done.stderr}"


def test_every_method_optimizer_and_bound_is_told():
    missing = [name for name in (*METHODS, *OPTIMIZERS, *BOUNDS) if f"`{name}`" not in page("choosing.md")]
    assert not missing


@pytest.mark.parametrize("name", [*PAGES, "../README.md"])
def test_links_and_extras_exist(name):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page(name)):
        assert target.startswith("http") or (DOCS / name).parent.joinpath(target).exists(), target
    extras = (launching.ROOT / "setup.py").read_text()
    for extra in re.findall(r"\.\[(\w+)\]", page(name)):
        assert f'"{extra}": [' in extras
