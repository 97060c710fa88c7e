"""Reads PromQL well enough to say what an expression names, and refuses what Prometheus would refuse.

Grammar: prometheus.io/docs/prometheus/latest/querying/basics and /operators.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKENS = re.compile(
    r"\s*(?:(?P<string>\"(?:[^\"\\]|\\.)*\")|(?P<duration>(?:\d+(?:ms|[smhdwy]))+)|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
    r"|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<op>=~|!~|!=|==|>=|<=|[-+*/%^<>={}()\[\],:]))"
)
_AGGREGATORS = {"sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "group", "count_values"}
_WITH_PARAMETER = {"topk", "bottomk", "quantile", "count_values"}
# Name: the types of its arguments; v: instant vector, r: range vector, s: scalar.
_FUNCTIONS = {
    "rate": "r", "increase": "r", "changes": "r", "resets": "r", "avg_over_time": "r", "max_over_time": "r",
    "min_over_time": "r", "sum_over_time": "r", "count_over_time": "r", "time": "", "absent": "v", "abs": "v",
    "clamp_min": "vs", "clamp_max": "vs", "scalar": "v", "vector": "s", "sort_desc": "v", "timestamp": "v",
}  # fmt: skip
_COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
_LEVELS = [{"or"}, {"and", "unless"}, _COMPARISONS, {"+", "-"}, {"*", "/", "%"}, {"^"}]


@dataclass
class Selector:
    metric: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Found:
    """What an expression names."""

    selectors: list[Selector] = field(default_factory=list)
    groupings: list[str] = field(default_factory=list)
    """Labels of by, without, on, ignoring, group_left."""


def parse(text: str) -> Found:
    """ValueError where Prometheus would refuse it."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            match = _TOKENS.match(text, at)
            if match is None or match.lastgroup is None:
                raise ValueError(f"cannot be read: {text[at:]!r}")
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
        self.at = 0
        self.found = Found()

    def whole(self) -> Found:
        kind = self.binary(0)
        if self.at != len(self.tokens):
            raise ValueError(f"something follows: {self.tokens[self.at :]}")
        if kind == "r":
            raise ValueError("a range cannot be shown")
        return self.found

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise ValueError(f"{wanted or 'something'} is needed, not {token!r}")
        self.at += 1
        return token

    def binary(self, level: int) -> str:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek() in _LEVELS[level]:
            op = self.take()
            if op in _COMPARISONS and self.peek() == "bool":
                self.take()
            if self.peek() in {"on", "ignoring"}:
                self.take()
                self.labels()
                if self.peek() in {"group_left", "group_right"}:
                    self.take()
                    if self.peek() == "(":
                        self.labels()
            right = self.binary(level + 1)
            if "r" in (left, right):
                raise ValueError(f"{op} takes no range")
            if op in {"and", "or", "unless"} and "s" in (left, right):
                raise ValueError(f"{op} takes no number")
            left = "v" if "v" in (left, right) else "s"
        return left

    def unary(self) -> str:
        if self.peek() in {"-", "+"}:
            self.take()
        kind = self.primary()
        if self.peek() == "[":
            if kind != "v":
                raise ValueError("only a selector has a range")
            self.take()
            self.duration()
            if self.peek() == ":":
                self.take()
                if self.peek() != "]":
                    self.duration()
            self.take("]")
            kind = "r"
        if self.peek() == "offset":
            self.take()
            self.duration()
        return kind

    def duration(self) -> None:
        if self.kind() != "duration":
            raise ValueError(f"a span is needed, not {self.peek()!r}")
        self.take()

    def primary(self) -> str:
        kind, word = self.kind(), self.take()
        if kind == "number":
            return "s"
        if word == "(":
            inner = self.binary(0)
            self.take(")")
            return inner
        if word == "{":
            self.at -= 1
            return self.selector("")
        if kind != "name":
            raise ValueError(f"no expression begins with {word!r}")
        if word in _AGGREGATORS:
            return self.aggregation(word)
        if self.peek() == "(":
            return self.call(word)
        return self.selector(word)

    def aggregation(self, name: str) -> str:
        grouped = self.grouping()
        arguments = self.arguments()
        if not grouped:
            self.grouping()
        if len(arguments) != 1 + (name in _WITH_PARAMETER) or arguments[-1] != "v":
            raise ValueError(f"{name} cannot take {arguments}")
        return "v"

    def grouping(self) -> bool:
        if self.peek() not in {"by", "without"}:
            return False
        self.take()
        self.labels()
        return True

    def labels(self) -> None:
        self.take("(")
        while self.peek() != ")":
            if self.kind() != "name":
                raise ValueError(f"a label is needed, not {self.peek()!r}")
            self.found.groupings.append(self.take())
            if self.peek() != ")":
                self.take(",")
        self.take(")")

    def arguments(self) -> list[str]:
        self.take("(")
        kinds = []
        while self.peek() != ")":
            kinds.append(self.binary(0))
            if self.peek() != ")":
                self.take(",")
        self.take(")")
        return kinds

    def call(self, name: str) -> str:
        if name not in _FUNCTIONS:
            raise ValueError(f"there is no function {name}")
        if "".join(self.arguments()) != _FUNCTIONS[name]:
            raise ValueError(f"{name} takes other arguments")
        return "s" if name in {"time", "scalar"} else "v"

    def selector(self, metric: str) -> str:
        selector = Selector(metric)
        if self.peek() == "{":
            self.take()
            while self.peek() != "}":
                if self.kind() != "name":
                    raise ValueError(f"a label is needed, not {self.peek()!r}")
                label, op = self.take(), self.take()
                if op not in {"=", "!=", "=~", "!~"} or self.kind() != "string":
                    raise ValueError(f"no matcher: {label}{op}{self.peek()}")
                value = self.take()[1:-1]
                if "~" in op:
                    re.compile(value)
                selector.matchers.append((label, op, value))
                if self.peek() != "}":
                    self.take(",")
            self.take("}")
        elif not metric:
            raise ValueError("a metric is needed")
        self.found.selectors.append(selector)
        return "v"
