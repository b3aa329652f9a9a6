"""The one exception for what a user can mend: a bad flag, file, field or argument."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, told in one line: what it is, the value, and what would be right."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a table: offers the nearest, lists the rest."""
    known = list(known)
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    hint = f" did you mean {nearest[0]!r}?" if nearest else ""
    return InputError(f"{kind}: {name!r} is not known;{hint} known: {', '.join(known)}")
