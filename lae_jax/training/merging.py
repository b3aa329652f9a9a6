"""Equal parts of a program computed once, where it runs on several devices.

On one device the compiler sees for itself that a loss and a rule ask for the same products with the data. Between
devices it does not: sums over devices count as different, and so does all that is made of them.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from jax.extend import core

from lae_jax.params import Array

Out = TypeVar("Out")
# By an operation and what it reads: its results, and what it has read.
Done = dict[object, tuple[list[Array], list[Array]]]

# Primitives that wrap a function, and the parameter that holds it. By now nothing is differentiated any more.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}


def merged(function: Callable[..., Out]) -> Callable[..., Out]:
    """The same function of trees of arrays, for `jax.jit`: operations on the same values are done once.

    What is inside loops and branches is left as it is.
    """

    def once(*arguments: object) -> Out:
        leaves, structure = jax.tree.flatten(arguments)
        program, shapes = jax.make_jaxpr(
            lambda *flat: function(*jax.tree.unflatten(structure, flat)), return_shape=True
        )(*leaves)
        found: Out = jax.tree.unflatten(jax.tree.structure(shapes), _evaluated(program, leaves, {}))
        return found

    return once


def _evaluated(program: core.ClosedJaxpr, arguments: Sequence[Array], done: Done) -> list[Array]:
    """The results of a program; `done` has those of every operation so far, by what it is and what it reads."""
    jaxpr = program.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *arguments], strict=True))

    def read(atom: core.Var | core.Literal) -> Array:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs, primitive = [read(atom) for atom in equation.invars], equation.primitive
        if primitive.name in _CALLS:
            results = _evaluated(equation.params[_CALLS[primitive.name]], inputs, done)
        else:
            known = [
                (str(atom), str(atom.aval)) if isinstance(atom, core.Literal) else id(value)
                for atom, value in zip(equation.invars, inputs, strict=True)
            ]
            key: object = (primitive, *known, *equation.params.items())
            try:
                hash(key)
            except TypeError:
                key = object()
            if key not in done or equation.effects:
                found = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
                # With what it has read, so that no other value takes its place in memory, and with that its key.
                done[key] = (found if primitive.multiple_results else [found], inputs)
            results = done[key][0]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
