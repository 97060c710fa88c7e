"""What a rendered text is made of, without the words in it: two files of one shape hold the same statements.

nginx's language is read as ngx_conf_read_token() in src/core/ngx_conf_file.c reads it; what nft has loaded is
read from its JSON listing (libnftables-json(5)).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Shape = Counter[tuple[str, ...]]


class Malformed(Exception):
    """A text is not of its language."""


@dataclass(slots=True)
class Directive:
    """One statement of nginx: its words, and what stands in its braces (None: it ends with a semicolon)."""

    words: list[str]
    inside: list[Directive] | None = None


def nginx_words(text: str) -> Iterator[tuple[str, bool]]:
    """The words of a configuration, and `;`, `{`, `}`; True for one of those three that is syntax."""
    index, end = 0, len(text)
    while index < end:
        char = text[index]
        if char in " \t\r\n":
            index += 1
        elif char == "#":
            index = text.find("\n", index) % (end + 1)
        elif char in ";{}":
            yield char, True
            index += 1
        else:
            word, index = _quoted(text, index) if char in "\"'" else _bare(text, index)
            yield word, False


def _quoted(text: str, start: int) -> tuple[str, int]:
    index = start + 1
    while index < len(text) and text[index] != text[start]:
        index += 2 if text[index] == "\\" else 1
    if index + 1 >= len(text) or text[index + 1] not in " \t\r\n;{)":
        raise Malformed(f"a quote is not well closed: {text[start : start + 60]!r}")
    return text[start : index + 1], index + 1


def _bare(text: str, start: int) -> tuple[str, int]:
    index = start
    while index < len(text) and text[index] not in " \t\r\n;{":
        if text[index] == "\\" or text[index : index + 2] == "${":
            index += 1
        index += 1
    return text[start:index], index


def nginx_tree(text: str) -> list[Directive]:
    """The statements of a configuration. Raises Malformed."""
    root: list[Directive] = []
    open_blocks = [root]
    words: list[str] = []
    for word, is_syntax in nginx_words(text):
        if not is_syntax:
            words.append(word)
        elif word == "}":
            if words or len(open_blocks) == 1:
                raise Malformed(f"a brace closes nothing, or too early: {words}")
            open_blocks.pop()
        else:
            if not words:
                raise Malformed(f"{word!r} without a word before it")
            statement = Directive(words, [] if word == "{" else None)
            open_blocks[-1].append(statement)
            if statement.inside is not None:
                open_blocks.append(statement.inside)
            words = []
    if words or len(open_blocks) > 1:
        raise Malformed("the text ends within a statement")
    return root


def nginx_shape(text: str) -> Shape:
    """How often each statement stands in which kind of block, with how many words. Raises Malformed."""
    found: Shape = Counter()

    def walk(statements: list[Directive], above: tuple[str, ...]) -> None:
        in_map = bool(above) and above[-1] == "map"
        for statement in statements:
            name = "(entry)" if in_map else statement.words[0]
            kind = ";" if statement.inside is None else "{}"
            found[(*above, f"{name} +{len(statement.words) - 1} {kind}")] += 1
            walk(statement.inside or [], (*above, name))

    walk(nginx_tree(text), ())
    return found


def nginx_names(text: str) -> set[str]:
    """The names of all statements, without the entries of maps."""
    return {path[-1].split(" ")[0] for path in nginx_shape(text)} - {"(entry)"}


def lines_shape(text: str) -> Shape:
    """A sysctl.d(5) text: each line is one `name = value`. Raises Malformed."""
    if text and not text.endswith("\n"):
        raise Malformed("the last line is not ended")
    for line in text.split("\n")[:-1]:
        name, middle, value = line.partition(" = ")
        if not middle or not name.strip() or line.splitlines() != [line] or name[0] in "#;-" or not value:
            raise Malformed(f"no setting: {line!r}")
    return Counter({("setting",): text.count("\n")})


@dataclass(slots=True)
class Listing:
    """What the kernel holds of a table: how many rules each chain has, elements each set, and their shape."""

    rules: Counter[str] = field(default_factory=Counter)
    elements: dict[str, int] = field(default_factory=dict)
    chains: set[str] = field(default_factory=set)
    others: Counter[str] = field(default_factory=Counter)
    shape: Shape = field(default_factory=Counter)
    comments: Counter[str] = field(default_factory=Counter)


_VALUES = {
    "comment",
    "name",
    "chain",
    "table",
    "handle",
    "prefix",
    "elem",
    "target",
    "left",
    "right",
    "map",
    "set",
}


def nft_listing(objects: list[dict[str, Any]]) -> Listing:
    """The objects of one ruleset, as `nft -j list ruleset` has them."""
    found = Listing()
    for entry in objects:
        (kind, thing), *_ = entry.items()
        if kind == "metainfo":
            continue
        if kind == "rule":
            found.rules[thing["chain"]] += 1
            found.comments[thing.get("comment", "")] += 1
            found.shape[(kind, "comment" * ("comment" in thing), *_statements(thing["expr"]))] += 1
        elif kind == "chain":
            found.chains.add(thing["name"])
            found.shape[(kind, *sorted(key for key in thing if key not in _VALUES))] += 1
        elif kind in {"set", "map"}:
            found.elements[thing["name"]] = len(thing.get("elem", ()))
            found.shape[(kind, str(thing.get("type")), str(thing.get("flags")))] += 1
        else:
            found.others[f"{kind} {thing.get('family', '')} {thing['name'] if kind == 'table' else ''}"] += 1
    return found


def _statements(expressions: list[Any]) -> Iterator[str]:
    """The kind of each statement of a rule, and what a match looks at."""
    for expression in expressions:
        if not isinstance(expression, dict):
            yield str(expression)
            continue
        for name, inside in expression.items():
            looked_at = ""
            if name == "match":
                looked_at = json.dumps(inside["left"], sort_keys=True) + inside["op"]
            yield f"{name} {looked_at}".rstrip()
