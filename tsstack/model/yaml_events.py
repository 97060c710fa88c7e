"""The YAML parser's events, and its complaints in plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tsstack.model import file_codes as codes
from tsstack.model.code import Code

# A colon inside a plain scalar of a flow collection, as in [tag:server] and [fd00::/64]. Not one that
# ends a key: those are followed by a blank, a line end or an indicator, or (as in JSON) follow a quote.
# Tags are matched too, to be left as they are.
_INNER_COLON = re.compile(r"""(?P<tag>(?:(?<=[\s,\[{])|\A)![^\s,\[\]{}]*)|(?<!["'\]}]):(?=[^\s,\[\]{}])""")
# The same where there can be no tag; with the colon in front it is ten times as quick.
_INNER_COLON_ALONE = re.compile(r""":(?<!["'\]}]:)(?=[^\s,\[\]{}])""")
_INNER_QUESTION = re.compile(r"\?(?<=[^\s,\[\]{}]\?)")
_VERSION = re.compile(r"^%YAML[ \t]+([0-9]+\.[0-9]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Disguise:
    """A text that libyaml reads as YAML 1.2 means it, and the way back.

    libyaml of YAML 1.1 ends a plain scalar of a flow collection at any colon or question mark, where
    YAML 1.2 (section 7.3.3, ns-plain-char) goes on. Two characters that the text does not hold stand in
    for them, one for one, so that all places stay true.
    """

    text: str
    version: str
    """What a %YAML directive asks for, or empty."""
    back: dict[int, str]

    def restore(self, text: str) -> str:
        """Text from the parser as the file has it."""
        return text.translate(self.back) if self.back else text


def disguise(text: str) -> Disguise:
    """Prepare a text for the parser."""
    version = _VERSION.match(text)
    if version is not None:
        # It is judged here; libyaml would refuse every number but 1.1. A comment takes its place.
        text = f"#{text[1:]}"
    private = (chr(point) for point in range(0xE000, 0xF8FF))
    free = (char for char in private if char not in text)
    colon, question = next(free, ""), next(free, "")
    back: dict[int, str] = {}
    if colon and question:
        if "!" in text:
            text, colons = _INNER_COLON.subn(lambda match: match["tag"] or colon, text)
        else:
            text, colons = _INNER_COLON_ALONE.subn(colon, text)
        text, questions = _INNER_QUESTION.subn(question, text)
        if colons or questions:
            back = {ord(colon): ":", ord(question): "?"}
    return Disguise(text, version[1] if version else "", back)


def parser_of(text: str) -> Any:
    """A parser over `text` with `get_event()` and `peek_event()`: libyaml's, else the pure one."""
    try:
        from _ruamel_yaml import CParser  # type: ignore[import-not-found]  # C, without stubs
    except ImportError:
        return pure_parser_of(text)
    return CParser(text)


def pure_parser_of(text: str) -> Any:
    """ruamel.yaml's own parser, for a Python that has no build of its C extension."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    _, parser = yaml.get_constructor_parser(text)
    return parser


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong with the text.

    `at_opening`: the place to show is where the broken thing opened, as the parser says; `at_bracket`: the
    innermost bracket that is open, which the parser does not say.
    """

    code: Code
    message: str
    hint: str = ""
    at_opening: bool = False
    at_bracket: bool = False


# What the parser's context and problem hold -> what is meant by it. The first that fits counts.
_COMPLAINTS: tuple[tuple[str, str, Complaint], ...] = (
    (
        "",
        "mapping values are not allowed",
        Complaint(
            codes.SYNTAX,
            'a ": " stands where no key can be',
            "quote a value that holds a colon and a space, or check the indentation",
        ),
    ),
    (
        "quoted scalar",
        "end of stream",
        Complaint(codes.SYNTAX, "the quote that opens here is never closed", "close it", at_opening=True),
    ),
    (
        "flow node",
        "",
        Complaint(
            codes.SYNTAX,
            "the bracket that opens here is never closed, or something in it cannot be read",
            "an entry, a comma or the closing bracket is missing",
            at_bracket=True,
        ),
    ),
    (
        "flow ",
        "",
        Complaint(
            codes.SYNTAX,
            "the bracket that opens here is not well closed",
            "a comma or the closing bracket is missing",
            at_opening=True,
        ),
    ),
    (
        "block ",
        "",
        Complaint(
            codes.SYNTAX,
            "this does not fit the lines above it",
            "check the indentation; one level is two spaces",
        ),
    ),
    ("", "expected ':'", Complaint(codes.SYNTAX, "a key without its colon", "write key: value")),
    (
        "",
        "escape",
        Complaint(
            codes.SYNTAX,
            "an escape that YAML does not know stands in a double-quoted text",
            "write \\\\ for a backslash, or use single quotes",
        ),
    ),
)


def explain_syntax(error: Any, line: str, column: int) -> Complaint:
    """The parser's error in plain words.

    `line` is the text of the line that the parser stopped in, `column` counts from 0.
    """
    problem = str(getattr(error, "problem", "") or "not valid YAML")
    context = str(getattr(error, "context", "") or "")
    at = line[column : column + 1]
    if at == "\t":
        return Complaint(codes.TAB, "a tab stands where YAML allows only spaces", "indent with spaces")
    if "cannot start any token" in problem:
        return Complaint(codes.SYNTAX, f"nothing can start with {at!r}", "put the value in quotes")
    for in_context, in_problem, complaint in _COMPLAINTS:
        if in_context in context and in_problem in problem:
            return complaint
    return Complaint(codes.SYNTAX, f"not valid YAML: {context}: {problem}".replace(": :", ":"))
