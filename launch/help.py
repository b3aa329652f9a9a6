"""What `--help` shows of a launcher: its fields with type, default and meaning, and its variants."""

import inspect
import re
import runpy
import sys
from pathlib import Path

from ml_collections import ConfigDict

from lae_jax.runs.directory import RunConfig
from lae_jax.training.settings import Settings

_FIELD = re.compile(r"(?: {4}(\w+): [^=]+| {4}config\.(\w+)) = .*")


def meanings(source: str) -> dict[str, str]:
    """What the comments of a dataclass or a configuration file say of its fields: behind them, or in lines before."""
    found, before = {}, ""
    for line in source.splitlines():
        text, _, comment = line.partition("  # ") if "  # " in line else (line, "", "")
        if line.strip().startswith("# "):
            before = f"{before} {line.strip()[2:]}".strip()
            continue
        if match := _FIELD.fullmatch(text):
            found[match[1] or match[2]] = comment or before
        before = ""
    return found


def describe(default: Path, config: ConfigDict) -> str:
    """What `--help` shows: the launcher, each field with its type, default and meaning, and the variants."""
    module = runpy.run_path(str(default))
    told: dict[str, str] = {}
    for source in (inspect.getsource(Settings), inspect.getsource(RunConfig), default.read_text()):
        told.update({name: text for name, text in meanings(source).items() if text})
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", module["__doc__"].strip(), "", "flags:"]
    lines += ["  --workdir=FOLDER: where the results go", "  --compilation_cache=FOLDER: keeps compiled programs"]
    lines += [f"  --config=FILE.py[:VARIANT]: the fields below; by default {default.name}", "", "fields:"]
    for name, value in config.items():
        shown = value.to_dict() if isinstance(value, ConfigDict) else value
        lines.append(f"  --config.{name} ({config.get_type(name).__name__}, {shown!r}): {told.get(name, '')}")
    for path in sorted(default.parent.glob(f"{default.stem}*.py")):
        variants = runpy.run_path(str(path)).get("VARIANTS", {})
        if path != default or variants:
            about = runpy.run_path(str(path))["__doc__"].splitlines()[0]
            lines += ["", f"--config=launch/configs/{path.name}: {about}"]
        lines += [f"  --config=launch/configs/{path.name}:{name}: {text}" for name, text in variants.items()]
    return "\n".join(lines)
