"""The shape of the file as its types declare it: which keys are known where, and what they are for."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from tsstack.model.keypath import KeyPath
from tsstack.model.section import Section


def flatten(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation, without Annotated and Union around them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return flatten(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(kind for arm in get_args(annotation) for kind in flatten(arm))
    return (annotation,)


def annotations_at(root: type[Section], path: KeyPath) -> tuple[Any, ...]:
    """What may stand at a key path below a section; empty where nothing may."""
    kinds: tuple[Any, ...] = (root,)
    for step in path:
        kinds = below_all(kinds, step)
    return kinds


def below_all(kinds: tuple[Any, ...], step: str | int) -> tuple[Any, ...]:
    """What may stand one step below any of the alternatives."""
    return tuple(below for kind in kinds for below in _below(kind, step))


@cache
def _below(kind: Any, step: str | int) -> tuple[Any, ...]:
    if isinstance(kind, type) and issubclass(kind, Section):
        annotation = known_keys(kind).get(step) if isinstance(step, str) else None
        return flatten(annotation) if annotation is not None else ()
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is dict and isinstance(step, str):
        return flatten(arguments[1])
    if origin is tuple and isinstance(step, int):
        return flatten(arguments[0])
    return ()


def sections(kinds: Iterable[Any]) -> tuple[type[Section], ...]:
    """Those of the alternatives that are sections."""
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))


def choices(kinds: Iterable[Any]) -> tuple[str, ...]:
    """The words that the alternatives allow literally."""
    return tuple(str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind))


@cache
def known_keys(section: type[Section]) -> dict[str, Any]:
    """A section's keys, in the file's spelling, with their annotations."""
    return {info.alias or name: info.annotation for name, info in section.model_fields.items()}


@cache
def docstrings(section: type[Section]) -> dict[str, str]:
    """What each key of a section is for, from the text below its declaration, in the file's spelling.

    Read from the source only when asked for: pydantic's own way would parse every module at import.
    """
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    statements = body.body if isinstance(body, ast.ClassDef) else []
    texts: dict[str, str] = {}
    for declared, text in pairwise(statements):
        if (
            isinstance(declared, ast.AnnAssign)
            and isinstance(declared.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            info = section.model_fields[declared.target.id]
            texts[info.alias or declared.target.id] = " ".join(text.value.value.split())
    return texts
