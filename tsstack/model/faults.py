"""Pydantic's errors as findings: with places, in the file's spelling, with what is allowed instead."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tsstack.errors import Finding
from tsstack.model import file_codes as codes
from tsstack.model import shape
from tsstack.model.code import Code
from tsstack.model.document import Document, Node, child
from tsstack.model.keypath import KeyPath, format_path
from tsstack.model.section import Section
from tsstack.model.units import duration_text, parse_duration_s
from tsstack.model.words import SECRET, listed, may_hold_secret, nearest, printable, redact, show

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_TYPES = {
    "bool_type": "true or false is needed",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "finite_number": "a number is needed",
    "string_type": "a text is needed",
    "tuple_type": "a list is needed: [a, b]",
    "dict_type": "a mapping is needed: {key: value}",
    "model_type": "a mapping is needed: {key: value}",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "{} or more is needed"),
    "greater_than": ("gt", "more than {} is needed"),
    "less_than_equal": ("le", "{} at most is allowed"),
    "less_than": ("lt", "less than {} is needed"),
}
# YAML 1.1's booleans, which many still write.
_OLD_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false", "y": "true", "n": "false"}
_PATTERNS = {
    "operator": "a local user's name is needed: alice",
    "path": "a path of letters, digits and . _ ~ / - is needed: /wiki",
    "status": "a loopback address with a port is needed: 127.0.0.1:9180",
    "metrics": "an address with a port is needed: 127.0.0.1:9464",
    "tcp": "a host with a port is needed: example.org:443",
    "command": "printable text without line ends is needed",
    "sysctl": "a whole number, or a text of letters, digits, blanks and . _ : + - is needed",
}


@dataclass(frozen=True, slots=True)
class _Fault:
    """One of pydantic's errors, found again in the file."""

    path: KeyPath
    node: Node
    branch: tuple[KeyPath, str] | None
    """Where a union was entered and which of its arms this is; pydantic's names, never shown."""
    about_key: bool
    type: str
    message: str
    context: dict[str, Any]


def findings_of(errors: Sequence[ErrorDetails], document: Document, root: type[Section]) -> list[Finding]:
    """A finding for each fault, in the file's order. The document as a whole is a `root`."""
    faults = [fault for error in errors if not _is_echo(fault := _locate(error, document))]
    findings = [_finding(fault, others, document, root) for fault, others in _choose_arms(faults)]
    return sorted(dict.fromkeys(findings), key=lambda finding: (finding.line, finding.column))


def _locate(error: ErrorDetails, document: Document) -> _Fault:
    node = document.root
    path: list[str | int] = []
    branch: tuple[KeyPath, str] | None = None
    about_key = False
    steps = error["loc"]
    for index, step in enumerate(steps):
        below = child(node, step)
        if below is not None:
            path.append(step)
            node = below
        elif step == "[key]":
            about_key = True
        elif error["type"] == "missing" and index == len(steps) - 1:
            path.append(step)
        elif isinstance(step, str) and branch is None and not about_key:
            branch = (tuple(path), step)
    message = str(error.get("ctx", {}).get("error", error["msg"]))
    return _Fault(tuple(path), node, branch, about_key, error["type"], message, error.get("ctx", {}))


def _is_echo(fault: _Fault) -> bool:
    """A list counts as too short for pydantic when its entries failed, which are reported by themselves."""
    return fault.type == "too_short" and isinstance(fault.node.value, list) and bool(fault.node.value)


def _choose_arms(faults: Iterable[_Fault]) -> list[tuple[_Fault, tuple[_Fault, ...]]]:
    """Of a union's failures keep those of the arm that was meant.

    Pydantic reports every arm. A mapping in the file means the arm that is a section; anything else
    means the others, whose texts are joined into one.
    """
    chosen: list[tuple[_Fault, tuple[_Fault, ...]]] = []
    unions: dict[KeyPath, list[_Fault]] = {}
    for fault in faults:
        if fault.branch is None:
            chosen.append((fault, ()))
        else:
            unions.setdefault(fault.branch[0], []).append(fault)
    for at, arms in unions.items():
        # An arm that failed inside the value was nearer to it than one that refused the whole.
        inside = [fault for fault in arms if fault.path != at]
        if inside:
            chosen += [(fault, ()) for fault in inside]
            continue
        mapping = isinstance(arms[0].node.value, dict)
        fitting = (
            [fault for fault in arms if fault.type in ("model_type", "value_error")] if mapping else arms
        )
        first, *others = [fault for fault in fitting if fault.type != "model_type"] or arms
        chosen.append((first, tuple(others)))
    return chosen


def _finding(fault: _Fault, others: tuple[_Fault, ...], document: Document, root: type[Section]) -> Finding:
    code, message, hint = _explain(fault, others, document, root)
    at_key = fault.about_key or code in (codes.UNKNOWN_KEY, codes.MISSING_KEY)
    file, line, column = document.place(fault.path, value=not at_key)
    path = redact(format_path(fault.path))
    return Finding(code.code, code.severity, path, redact(message), redact(hint), file, line, column)


def _explain(
    fault: _Fault, others: tuple[_Fault, ...], document: Document, root: type[Section]
) -> tuple[Code, str, str]:
    value = fault.node.value
    path = fault.path
    key = str(fault.path[-1]) if fault.path else ""
    owners = shape.sections(shape.annotations_at(root, path[:-1]))
    if fault.type == "extra_forbidden":
        known = [name for owner in owners for name in shape.known_keys(owner)]
        hint = nearest(key, known) or f"known here: {', '.join(known)}"
        return codes.UNKNOWN_KEY, "the key is not known here", hint
    if fault.type == "missing":
        purpose = next((shape.docstrings(owner).get(key, "") for owner in owners), "")
        return codes.MISSING_KEY, "the key is missing", purpose
    if fault.about_key:
        return codes.BAD_KEY_NAME, f"the name is {show(key)}; {fault.message}", ""
    hint = _hint(fault, value, root, path)
    if fault.type == "value_error" and isinstance(value, dict) and not others:
        return codes.CONFLICTING_KEYS, fault.message, hint
    texts = list(dict.fromkeys(_allowed(arm) for arm in (fault, *others)))
    # An arm of a union may be the narrower case of another: "a whole number", "a whole number or a text".
    allowed = "; or ".join(text for text in texts if not any(_says(more, text) for more in texts))
    return _code_of(fault), f"found {show(value, fault.node.text)}; {allowed}", hint


def _says(more: str, less: str) -> bool:
    return more != less and more.startswith(less.removesuffix(" is needed"))


def _code_of(fault: _Fault) -> Code:
    if fault.type == "literal_error":
        return codes.NOT_ONE_OF
    if fault.type in _TYPES:
        return codes.WRONG_TYPE
    if fault.type in _BOUNDS or fault.type in ("too_short", "too_long"):
        return codes.OUT_OF_RANGE
    return codes.BAD_VALUE


def _allowed(fault: _Fault) -> str:
    if fault.type in ("string_pattern_mismatch", "string_type"):
        names = [step for step in fault.path if isinstance(step, str) and step in _PATTERNS]
        if names:
            return _PATTERNS[names[-1]]
    if fault.type in _TYPES:
        return _TYPES[fault.type]
    if fault.type in _BOUNDS:
        key, text = _BOUNDS[fault.type]
        bound = fault.context[key]
        return text.format(
            duration_text(bound) if _is_duration(fault.node.text) and bound else f"{bound:.15g}"
        )
    if fault.type == "literal_error":
        words = str(fault.context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return f"{listed(words)} is needed"
    if fault.type == "too_short":
        return f"{fault.context['min_length']} entry or more is needed"
    return fault.message


def _is_duration(text: str) -> bool:
    try:
        parse_duration_s(text)
    except ValueError:
        return False
    return True


def _hint(fault: _Fault, value: Any, root: type[Section], path: KeyPath) -> str:
    """What to write instead, where the value itself shows what was meant."""
    text = printable(redact(fault.node.text)[:40])
    if isinstance(value, str):
        return _hint_for_text(fault, value, shape.choices(shape.annotations_at(root, path)))
    if fault.type == "tuple_type" and value is not None and not isinstance(value, dict):
        return f"write [{text}]"
    if isinstance(value, int | float):
        allowed = _allowed(fault)
        for word, suggestion in _NUMBER_HINTS.items():
            if word in allowed:
                unit = "ms" if path and path[-1] in _IN_MILLISECONDS else "s"
                return suggestion.format(text, unit=unit)
    return ""


# Durations that people think of in milliseconds.
_IN_MILLISECONDS = {"max_latency", "latency", "probe"}
_NUMBER_HINTS = {
    "duration": "write the unit: {}{unit}",
    "percentage": "write the unit: {}%",
    "bandwidth": "write the unit: {}mbit",
    "a text is": 'if it is meant as text, quote it: "{}"',
    "name is": 'if it is meant as text, quote it: "{}"',
    "label is": 'if it is meant as text, quote it: "{}"',
}


def _hint_for_text(fault: _Fault, value: str, words: tuple[str, ...]) -> str:
    if SECRET.search(value):
        return "a secret has no place in this file"
    if fault.type == "bool_type" and value.lower() in _OLD_BOOLEANS:
        return f"in YAML 1.2 {value} is a text; write {_OLD_BOOLEANS[value.lower()]}"
    number = fault.type in ("int_type", "float_type") and value.isdecimal()
    if number or (fault.type == "bool_type" and value in ("true", "false")):
        return "write it without quotes"
    if fault.type == "tuple_type":
        return f"write [{printable(redact(fault.node.text)[:40])}]"
    return nearest(value, words) if words else ""


def secrets_in(document: Document) -> list[Finding]:
    """A finding for every key that is written out in the file: in values, in names, in comments."""
    code = codes.LITERAL_SECRET
    hint = "revoke it, put a new one into the secrets file and write {secret: KEY}"
    findings: list[Finding] = []
    text = document.source.decode("utf-8", errors="replace")
    # Only an escape can hide one in a value that the text does not show.
    if "\\" not in text and not (may_hold_secret(text) and SECRET.search(text)):
        return findings
    for path, node in document.scalars():
        if SECRET.search(node.text):
            findings.append(
                Finding(
                    code.code,
                    code.severity,
                    redact(format_path(path)),
                    "a secret is written out here",
                    hint,
                    document.file,
                    node.line,
                    node.column,
                )
            )
    known = {(finding.line, finding.column) for finding in findings}
    return findings + secrets_in_text(document.source, document.file, known)


def secrets_in_text(source: bytes, file: str, known: Collection[tuple[int, int]] = ()) -> list[Finding]:
    """The same for a text that need not be valid, skipping places (line, column) that are known already."""
    code = codes.LITERAL_SECRET
    hint = "revoke it and take it out of the file"
    findings: list[Finding] = []
    told = set(known)
    text = source.decode("utf-8", errors="replace")
    if not SECRET.search(text):
        return findings
    for number, line in enumerate(text.split("\n"), start=1):
        for match in SECRET.finditer(line):
            # A quoted value starts at its quote, one column before the key itself.
            if {(number, match.start()), (number, match.start() + 1)} & told:
                continue
            message = "a secret is written out here"
            findings.append(
                Finding(code.code, code.severity, "", message, hint, file, number, match.start() + 1)
            )
    return findings
