"""The CEL environment of guards: the standard functions, and numbers that mix as those of JSON do.

JSON has one kind of number, in which ``50`` and ``50.0`` are the same; CEL has integers and doubles and never
mixes them. Here an integer that meets a double counts as a double, in arithmetic and in
comparisons. Two integers stay integers: ``7 / 2`` is 3, as CEL has it.
"""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from cel_expr_python import cel

_T = cel.Type
_INT, _UINT, _DOUBLE, _BOOL = _T.INT, _T.UINT, _T.DOUBLE, _T.BOOL
_TEXT, _BYTES, _TIME, _SPAN = _T.STRING, _T.BYTES, _T.TIMESTAMP, _T.DURATION
_LIST, _ANY_MAP = _T.List(_T.DYN), _T.Map(_T.DYN, _T.DYN)
_MIXED = ((_INT, _DOUBLE), (_DOUBLE, _INT))

Overloads = list[tuple[cel.Type, cel.Type, cel.Type]]
"""Left, right and result of each overload that the library evaluates itself."""

_ARITHMETIC: dict[str, Overloads] = {
    "_+_": [
        *((one, one, one) for one in (_INT, _UINT, _DOUBLE, _TEXT, _BYTES, _LIST, _SPAN)),
        (_TIME, _SPAN, _TIME),
        (_SPAN, _TIME, _TIME),
    ],
    "_-_": [
        *((one, one, one) for one in (_INT, _UINT, _DOUBLE, _SPAN)),
        (_TIME, _TIME, _SPAN),
        (_TIME, _SPAN, _TIME),
    ],
    "_*_": [(one, one, one) for one in (_INT, _UINT, _DOUBLE)],
    "_/_": [(one, one, one) for one in (_INT, _UINT, _DOUBLE)],
    "_%_": [(one, one, one) for one in (_INT, _UINT)],
}
_ORDERED = (_BOOL, _INT, _UINT, _DOUBLE, _TEXT, _BYTES, _TIME, _SPAN)
_COMPARABLE = (*_ORDERED, _T.NULL, _LIST, _ANY_MAP)
_ORDER: dict[str, Overloads] = {
    name: [(one, one, _BOOL) for one in _ORDERED] for name in ("_<_", "_<=_", "_>_", "_>=_")
}
_EQUALITY: dict[str, Overloads] = {
    name: [(one, one, _BOOL) for one in _COMPARABLE] for name in ("_==_", "_!=_")
}


class CelEnvironment:
    """An environment in which expressions read ``variables``."""

    def __init__(self, variables: Mapping[str, cel.Type]) -> None:
        self._variables = dict(variables)
        self._mixing = _environment(variables, {**_ORDER, **_EQUALITY})

    @cached_property
    def _comparing_types(self) -> cel.Env:
        """The environment for ``type(x) == int``: no overload can be declared for types."""
        return _environment(self._variables, _ORDER)

    def compile(self, expression: str) -> cel.Expression:
        """Compile an expression and check its types.

        Raises:
            RuntimeError: It does not compile.
        """
        try:
            return self._mixing.compile(expression)
        except RuntimeError as refusal:
            try:
                return self._comparing_types.compile(expression)
            except RuntimeError:
                raise refusal from None

    def activation(self, values: Mapping[str, Any]) -> cel.Activation:
        """Convert values to CEL once, for several expressions that are evaluated over them."""
        return self._mixing.Activation(data=values)

    def parse(self, expression: str) -> bytes:
        """Return the syntax tree of an expression, serialized.

        Raises:
            RuntimeError: It has a syntax error.
        """
        tree: bytes = self._mixing.compile(expression, disable_check=True).serialize()
        return tree

    def evaluate(self, tree: bytes) -> cel.Value:
        """Evaluate a serialized syntax tree that reads nothing.

        Raises:
            RuntimeError: It cannot be evaluated.
        """
        return self._mixing.deserialize(tree).eval(data={})


def _environment(variables: Mapping[str, cel.Type], comparisons: Mapping[str, Overloads]) -> cel.Env:
    functions = [
        *(_declared(name, overloads, _MIXED_ARITHMETIC[name]) for name, overloads in _ARITHMETIC.items()),
        *(_declared(name, overloads, None) for name, overloads in comparisons.items()),
    ]
    names = "".join(f"    - name: '{name}'\n" for name in (*_ARITHMETIC, *comparisons))
    # The library cannot add an overload to a standard function, so the function is declared anew.
    config = cel.NewEnvConfigFromYaml(f"stdlib:\n  exclude_functions:\n{names}")
    return cel.NewEnv(config=config, variables=variables, functions=functions)


def _declared(
    name: str, overloads: Overloads, mixed: Callable[[float, float], float] | None
) -> cel.FunctionDecl:
    """Declare the library's own overloads, and those for an integer and a double.

    The library compares an integer with a double itself: only its type checker does not know.
    """
    declared = [_overload(name, *each) for each in overloads]
    pairs = (*_MIXED, (_DOUBLE, _DOUBLE)) if name == "_%_" else _MIXED
    for left, right in pairs:
        if mixed is None:
            declared.append(_overload(name, left, right, _BOOL))
        else:
            declared.append(_overload(name, left, right, _DOUBLE, impl=mixed))
    return cel.FunctionDecl(name, declared)


def _overload(
    name: str, left: cel.Type, right: cel.Type, result: cel.Type, **implementation: Any
) -> cel.Overload:
    overload_id = f"{name}({left.name()},{right.name()})"
    return cel.Overload(overload_id, return_type=result, parameters=[left, right], **implementation)


def _add(left: float, right: float) -> float:
    return float(left) + float(right)


def _subtract(left: float, right: float) -> float:
    return float(left) - float(right)


def _multiply(left: float, right: float) -> float:
    return float(left) * float(right)


def _divide(left: float, right: float) -> float:
    """Divide as IEEE 754 does: by zero it gives an infinity, or none for zero."""
    left, right = float(left), float(right)
    if right:
        return left / right
    if not left or math.isnan(left):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def _modulo(left: float, right: float) -> float:
    """Give the remainder with the sign of the dividend, as JavaScript does."""
    try:
        return math.fmod(left, right)
    except ValueError:  # by zero, or of an infinity
        return math.nan


_MIXED_ARITHMETIC = {"_+_": _add, "_-_": _subtract, "_*_": _multiply, "_/_": _divide, "_%_": _modulo}
