"""Walks the syntax tree of a chat template: statements, expressions, scopes.

Every node that is walked is charged to the budget, and so are the results (`template_values`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from chainrule.codecs.template_tables import ARITHMETIC, COMPARISONS
from chainrule.codecs.template_values import (
    ELEMENT,
    STEP,
    Function,
    Loop,
    Marks,
    Method,
    Namespace,
    Undefined,
    named,
    refuse,
    shown,
    want,
)
from chainrule.codecs.template_world import World

_DATE = re.compile(r"(?:[^%]|%-?[a-zA-Z%])*")


class Jump(Exception):
    """break or continue."""


class Scope:
    """Names, inside the names around them."""

    def __init__(self, names: dict[str, Any], outer: Scope | None = None) -> None:
        self.names, self.outer = names, outer
        self.depth: int = 1 if outer is None else outer.depth + 1

    def get(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return Undefined(shown(name))


class Render(World):
    """One rendering."""

    def __init__(self, marks: Marks) -> None:
        super().__init__(marks)
        self.out: list[str] = []
        self.line = 1

    def globals(self, names: dict[str, Any], now: datetime | None) -> None:
        """Add the functions that every chat template may call."""

        def strftime_now(form: Any) -> str:
            if len(want(form, str)) > 100 or not _DATE.fullmatch(form):
                refuse("strftime_now can't take this form")
            return (now or datetime.now()).strftime(form)

        def raise_exception(reason: Any = "") -> None:
            refuse(self.plain(self.text(reason)))

        def span(*ends: Any) -> list[int]:
            found = range(*(want(e, int) for e in ends))
            self.charge(ELEMENT * len(found))
            return list(found)

        def namespace(*other: Any, **attributes: Any) -> Namespace:
            given = [self.elements(want(o, dict).items()) for o in other]
            return Namespace(dict(chain(*given)) | attributes)

        functions: dict[str, Callable[..., Any]] = {
            "dict": lambda **entries: entries,
            "namespace": namespace,
            "raise_exception": raise_exception,
            "range": span,
            "strftime_now": strftime_now,
        }
        for name, function in functions.items():
            names.setdefault(name, Function(name, function))

    # ---- statements ----

    def body(self, statements: Sequence[Any], scope: Scope) -> None:
        for node in statements:
            self.charge(STEP)
            self.line = node.lineno
            STATEMENTS[type(node).__name__](self, node, scope)

    def captured(self, statements: Sequence[Any], scope: Scope) -> str:
        return self.catch(lambda: self.body(statements, scope))

    def catch(self, write: Callable[[], None]) -> str:
        """What is written, instead of writing it."""
        before, self.out = self.out, []
        try:
            with self.deeper():
                write()
            return self.join(self.out)
        finally:
            self.out = before

    def output(self, node: Any, scope: Scope) -> None:
        for part in node.nodes:
            self.out.append(self.text(self.value(part, scope)))

    def branch(self, node: Any, scope: Scope) -> None:
        for each in (node, *node.elif_):
            if self.true(self.value(each.test, scope)):
                self.body(each.body, scope)
                return
        self.body(node.else_, scope)

    def loop(self, node: Any, scope: Scope) -> None:
        self.iterate_over(node, self.value(node.iter, scope), scope, 1)

    def iterate_over(self, node: Any, values: Any, scope: Scope, depth: int) -> None:
        items = self.iterate(values)
        if node.test is not None:
            items = [i for i in items if self.passes(node, i, scope)]

        def again(inner: Any) -> str:
            return self.catch(lambda: self.iterate_over(node, inner, scope, depth + 1))

        loop = Loop(items, 0, depth, again if node.recursive else None)
        for loop.at, item in enumerate(items):
            inside = Scope({"loop": loop}, scope)
            self.assign(node.target, item, inside)
            try:
                self.body(node.body, inside)
            except Jump as jump:
                if str(jump) == "break":
                    break
        if not items:
            self.body(node.else_, Scope({}, scope))

    def passes(self, node: Any, item: Any, scope: Scope) -> bool:
        inside = Scope({}, scope)
        self.assign(node.target, item, inside)
        return self.true(self.value(node.test, inside))

    def assign(self, target: Any, value: Any, scope: Scope) -> None:
        kind = type(target).__name__
        self.charge(STEP)
        if kind == "Name":
            scope.names[target.name] = value
        elif kind == "NSRef":
            self.charge(scope.depth)
            space = scope.get(target.name)
            if not isinstance(space, Namespace):
                refuse(f"{shown(target.name)} is no namespace: only those have attributes to set")
            space.names[target.attr] = value
        elif kind == "Tuple":
            values = self.iterate(value)
            if len(values) != len(target.items):
                refuse(f"{len(values)} values for {len(target.items)} names")
            for each, one in zip(target.items, values, strict=True):
                self.assign(each, one, scope)
        else:
            refuse(f"{kind} can't be assigned to")

    def capture(self, node: Any, scope: Scope) -> None:
        text: Any = self.captured(node.body, Scope({}, scope))
        if node.filter is not None:
            text = self.filtered(node.filter, scope, text)
        self.assign(node.target, text, scope)

    def filter_block(self, node: Any, scope: Scope) -> None:
        text = self.captured(node.body, Scope({}, scope))
        self.out.append(self.text(self.filtered(node.filter, scope, text)))

    def with_(self, node: Any, scope: Scope) -> None:
        values = [self.value(v, scope) for v in node.values]
        inside = Scope({}, scope)
        for target, value in zip(node.targets, values, strict=True):
            self.assign(target, value, inside)
        self.body(node.body, inside)

    def macro(self, node: Any, scope: Scope) -> None:
        scope.names[node.name] = Function(node.name, self.callable(node, node.name, scope))

    def callable(self, node: Any, name: str, scope: Scope) -> Callable[..., str]:
        """A macro, or the body of a call block."""
        self.charge(ELEMENT * len(node.args))
        names = [a.name for a in node.args]
        known = set(names)

        def call(*args: Any, **kwargs: Any) -> str:
            self.charge(ELEMENT * len(names))
            if len(args) > len(names):
                refuse(f"{name} takes {len(names)} arguments, not {len(args)}")
            inside = Scope(dict(zip(names, args, strict=False)), scope)
            inside.names["caller"] = kwargs.pop("caller", Undefined("'caller'"))
            for key, value in kwargs.items():
                if key not in known or key in inside.names:
                    refuse(f"{name} can't take the argument {shown(key)}")
                inside.names[key] = value
            optional = dict(
                zip(names[len(names) - len(node.defaults) :], node.defaults, strict=True)
            )
            for each in names:
                if each not in inside.names:
                    other = optional.get(each)
                    found = Undefined(shown(each)) if other is None else self.value(other, inside)
                    inside.names[each] = found
            try:
                return self.captured(node.body, inside)
            except Jump as jump:
                refuse(f"{jump} outside of a loop")

        return call

    def call_block(self, node: Any, scope: Scope) -> None:
        caller = Function("caller", self.callable(node, "caller", scope))
        self.out.append(self.text(self.call(node.call, scope, {"caller": caller})))

    def jump(self, node: Any, scope: Scope) -> None:
        raise Jump(type(node).__name__.lower())

    # ---- expressions ----

    def value(self, node: Any, scope: Scope) -> Any:
        self.charge(STEP)
        self.line = node.lineno
        return self.made(EXPRESSIONS[type(node).__name__](self, node, scope))

    def output_data(self, node: Any, scope: Scope) -> str:
        return self.bytes(node.data)

    def constant(self, node: Any, scope: Scope) -> Any:
        return self.number(node.value)

    def name(self, node: Any, scope: Scope) -> Any:
        self.charge(scope.depth)
        return scope.get(node.name)

    def values(self, nodes: Sequence[Any], scope: Scope) -> list[Any]:
        return [self.value(n, scope) for n in nodes]

    def mapping(self, node: Any, scope: Scope) -> dict[Any, Any]:
        pairs = [(p.key, p.value) for p in node.items]
        return {self.key(self.value(k, scope)): self.value(v, scope) for k, v in pairs}

    def either(self, node: Any, scope: Scope) -> Any:
        if self.true(self.value(node.test, scope)):
            return self.value(node.expr1, scope)
        return Undefined("the other case") if node.expr2 is None else self.value(node.expr2, scope)

    def logic(self, node: Any, scope: Scope) -> Any:
        left = self.value(node.left, scope)
        go_on = self.true(left) is (type(node).__name__ == "And")
        return self.value(node.right, scope) if go_on else left

    def concat(self, node: Any, scope: Scope) -> str:
        return self.join([self.text(v) for v in self.values(node.nodes, scope)])

    def comparison(self, node: Any, scope: Scope) -> bool:
        left = self.value(node.expr, scope)
        for operand in node.ops:
            right = self.value(operand.expr, scope)
            if not COMPARISONS[operand.op](self, left, right):
                return False
            left = right
        return True

    def unary(self, node: Any, scope: Scope) -> Any:
        value = self.value(node.node, scope)
        if type(node).__name__ == "Not":
            return not self.true(value)
        number = want(value, (int, float))
        return self.number(-number) if type(node).__name__ == "Neg" else number

    def arithmetic(self, node: Any, scope: Scope) -> Any:
        a, b = self.value(node.left, scope), self.value(node.right, scope)
        sign = type(node).__name__
        if sign == "Add" and isinstance(a, str) and isinstance(b, str):
            return self.join([a, b])
        if sign == "Add" and isinstance(a, (list, tuple)) and type(b) is type(a):
            return a + b  # type: ignore[operator]
        if sign == "Mul" and isinstance(b, (str, list)):
            a, b = b, a
        if sign == "Mul" and isinstance(a, (str, list)):
            times = max(want(b, int), 0)
            self.charge(ELEMENT * len(a) * times)
            return a * times
        a, b = want(a, (int, float)), want(b, (int, float))
        if sign == "Pow" and abs(b) > 64:
            refuse("a power is out of bounds")
        return self.number(ARITHMETIC[sign](a, b))

    def entry(self, node: Any, scope: Scope) -> Any:
        value = self.value(node.node, scope)
        if type(node.arg).__name__ != "Slice":
            return self.item(value, self.value(node.arg, scope))
        parts = (node.arg.start, node.arg.stop, node.arg.step)
        ends = [None if p is None else self.value(p, scope) for p in parts]
        cut = slice(*(None if e is None else want(e, int) for e in ends))
        made = want(value, (str, list, tuple))[cut]
        return self.bytes(made, 10) if isinstance(made, str) else made

    def reach(self, node: Any, scope: Scope) -> Any:
        return self.attribute(self.value(node.node, scope), node.attr)

    def filtered(self, node: Any, scope: Scope, text: str | None = None) -> Any:
        """In a filter block the innermost filter has no value of its own: ``text`` is it."""
        if node.node is None:
            value: Any = text
        elif text is not None:  # a chain of filters
            value = self.filtered(node.node, scope, text)
        else:
            value = self.value(node.node, scope)
        return self.filter(node.name, value, *self.arguments(node, scope))

    def tested(self, node: Any, scope: Scope) -> bool:
        return self.test(node.name, self.value(node.node, scope), *self.arguments(node, scope))

    def arguments(self, node: Any, scope: Scope) -> tuple[list[Any], dict[str, Any]]:
        args = self.values(node.args, scope)
        kwargs = {k.key: self.value(k.value, scope) for k in node.kwargs}
        if node.dyn_args is not None:
            args += self.iterate(self.value(node.dyn_args, scope))
        if node.dyn_kwargs is not None:
            more = want(self.value(node.dyn_kwargs, scope), dict)
            self.charge(ELEMENT * len(more))
            kwargs |= more
        return args, kwargs

    def call(self, node: Any, scope: Scope, more: dict[str, Any] | None = None) -> Any:
        target = self.value(node.node, scope)
        args, kwargs = self.arguments(node, scope)
        kwargs |= more or {}
        if isinstance(target, Method):
            return self.method(target, args, kwargs)
        if isinstance(target, Loop) and target.again is not None:
            return target.again(*args, **kwargs)
        if isinstance(target, Function):
            return self.made(target.call(*args, **kwargs))
        if isinstance(target, Undefined):
            refuse(f"{target.what} is undefined, or nothing that a chat template may call")
        return refuse(f"{named(target)} can't be called")


STATEMENTS: dict[str, Callable[[Render, Any, Scope], None]] = {
    "Assign": lambda r, n, s: r.assign(n.target, r.value(n.node, s), s),
    "AssignBlock": Render.capture,
    "Break": Render.jump,
    "CallBlock": Render.call_block,
    "Continue": Render.jump,
    "FilterBlock": Render.filter_block,
    "For": Render.loop,
    "If": Render.branch,
    "Macro": Render.macro,
    "Output": Render.output,
    "Scope": lambda r, n, s: r.body(n.body, Scope({}, s)),
    "With": Render.with_,
}
EXPRESSIONS: dict[str, Callable[[Render, Any, Scope], Any]] = {
    **dict.fromkeys(ARITHMETIC, Render.arithmetic),
    **dict.fromkeys(("And", "Or"), Render.logic),
    **dict.fromkeys(("Neg", "Not", "Pos"), Render.unary),
    "Call": Render.call,
    "Compare": Render.comparison,
    "Concat": Render.concat,
    "CondExpr": Render.either,
    "Const": Render.constant,
    "Dict": Render.mapping,
    "Filter": Render.filtered,
    "Getattr": Render.reach,
    "Getitem": Render.entry,
    "List": lambda r, n, s: r.values(n.items, s),
    "Name": Render.name,
    "TemplateData": Render.output_data,
    "Test": Render.tested,
    "Tuple": lambda r, n, s: tuple(r.values(n.items, s)),
}
# Nodes that are parts of others.
KNOWN = {*STATEMENTS, *EXPRESSIONS, "Keyword", "NSRef", "Operand", "Pair", "Slice"}
