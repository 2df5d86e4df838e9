"""The small language inside a family's templates: `{expression}` holes in a text, filled from a config.json, and
solved for its keys on the way back.

    "attention(heads={num_attention_heads}, scale={query_pre_attn_scalar ** -0.5})"

An expression is arithmetic on keys; it can be solved where one key stands in it once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from nanogpt.spec import Spec, Value, parse_value

HOLE = re.compile(r"\{([^{}]+)\}")
PLACE = "hole_"
"""A hole's name while its text is read as a part: `hole_3`."""
ALLOWED = (
    ast.Expression, ast.Name, ast.Load, ast.Constant, ast.List, ast.Subscript, ast.Slice, ast.Call, ast.BinOp,
    ast.operator, ast.UnaryOp, ast.unaryop, ast.BoolOp, ast.boolop, ast.Compare, ast.cmpop, ast.IfExp,
)  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": len,
    "where": lambda flags, yes, no: [yes if flag else no for flag in flags],
}


@cache
def read(text: str) -> ast.expr:
    """An expression, with nothing in it but arithmetic, lists and FUNCTIONS."""
    tree = ast.parse(text.strip(), mode="eval")
    for node in ast.walk(tree):
        assert isinstance(node, ALLOWED), f"{ast.unparse(node)} is not part of the language of templates"
    return tree.body


def evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of an expression. A name that `values` has not raises what `values` raises."""
    return eval(compile(ast.Expression(node), "<family>", "eval"), {"__builtins__": {}, **FUNCTIONS}, values)


class Template:
    """A value with holes: `"{hidden_size}"` is any value, `"swiglu(hidden={intermediate_size})"` a part. A knob whose
    hole is None keeps the part's own default."""

    def __init__(self, text: Any) -> None:
        self.holes: dict[str, ast.expr] = {}
        self.tree: Value = parse_value(HOLE.sub(self._hole, text)) if isinstance(text, str) else text

    @property
    def constant(self) -> Any:
        """What it always is, where that is one plain value; None otherwise."""
        if isinstance(self.tree, str) and isinstance(node := self.holes.get(self.tree), ast.Constant):
            return node.value
        return None if self.holes or isinstance(self.tree, Spec) else self.tree

    def _hole(self, match: re.Match[str]) -> str:
        name = f"{PLACE}{len(self.holes)}"
        self.holes[name] = read(match[1])
        return name

    def fill(self, values: Mapping[str, Any]) -> Any:
        return self._fill(self.tree, values)

    def _fill(self, tree: Any, values: Mapping[str, Any]) -> Any:
        if isinstance(tree, Spec):
            knobs = {k: self._fill(v, values) for k, v in tree.knobs.items()}
            return Spec(tree.name, (), {k: v for k, v in knobs.items() if v is not None})
        if isinstance(tree, list):
            return [self._fill(v, values) for v in tree]
        return evaluate(self.holes[tree], values) if isinstance(tree, str) and tree in self.holes else tree


Bind = Callable[[str, Any, "int | None"], bool]
"""(key, value, index) -> whether the key can have that value; index: its place, where the key is a list."""


def solve(node: ast.expr, value: Any, bind: Bind, layer: int | None) -> bool:
    """Find the key that gives an expression this value. False where none does; True too where it cannot be told."""
    match node:
        case ast.Name(id=key):
            return bind(key, value, None)
        case ast.Subscript(value=ast.Name(id=key), slice=ast.Name(id="layer")):
            return bind(key, value, layer)
        case ast.Compare(left=ast.Name(id=key), ops=[ast.Is()]) if value:  # x is None
            return bind(key, None, None)
        case ast.Constant(value=constant):
            return bool(constant == value)
        case ast.BoolOp(op=ast.Or(), values=[inner, ast.Constant(value=other)]):
            return solve(inner, None if value == other else value, bind, layer)
        case ast.BinOp() if not isinstance(value, (int, float)) or value == 0:
            return False
        case ast.BinOp(left=ast.Constant(value=c), op=op, right=inner) if type(op) in FROM_LEFT:
            return solve(inner, _tidy(FROM_LEFT[type(op)](c, value)), bind, layer)
        case ast.BinOp(left=inner, op=op, right=right) if type(op) in FROM_RIGHT:
            try:
                c = ast.literal_eval(right)
            except ValueError:
                return True
            return solve(inner, _tidy(FROM_RIGHT[type(op)](c, value)), bind, layer)
    return True


FROM_LEFT: dict[type, Callable[[Any, Any], Any]] = {ast.Div: lambda c, v: c / v, ast.Mult: lambda c, v: v / c}
FROM_RIGHT: dict[type, Callable[[Any, Any], Any]] = {
    ast.Pow: lambda c, v: v ** (1 / c),
    ast.Mult: lambda c, v: v / c,
    ast.Div: lambda c, v: v * c,
}


def _tidy(number: float) -> float:
    """The whole number that rounding has missed by a hair."""
    return round(number) if abs(number - round(number)) < 1e-9 * abs(number) else number
