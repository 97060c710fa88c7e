"""The second wall against injection, behind the model's alphabets.

Every value that a template writes passes here; a character outside the one allowed alphabet stops the
rendering. Text of the templates themselves and the result of their macros is not touched.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from tsstack.errors import CheckFailed

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment
    from markupsafe import Markup

# No quote, brace, semicolon, dollar sign, white space, backslash, number sign or control character:
# nothing that ends a word or a statement of nginx's language or starts a variable or a comment.
_ALLOWED = re.compile(r"[A-Za-z0-9._:/@+~%\[\]=*-]*")


def guard(value: Any) -> Any:
    """Let `value` into the configuration, or raise CheckFailed. Undefined names raise in jinja2."""
    if hasattr(value, "__html__"):  # Markup: a macro's own text
        return value
    if isinstance(value, bool) or value is None:
        raise CheckFailed(f"{value!r} has no place in an nginx configuration")
    return _admit(str(value))


@lru_cache(maxsize=8192)
def _admit(text: str) -> Markup:
    from markupsafe import Markup

    if _ALLOWED.fullmatch(text) is None:
        raise CheckFailed(
            f"the value {text!r} holds a character that could become nginx syntax",
            hint="use letters, digits and . _ : / @ + ~ % = * - only",
        )
    return Markup(text)  # noqa: S704  (there is nothing in the alphabet that could be escaped)


_OPTIONS = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}


@cache
def environment(templates: Path, compiled: Path | None) -> Environment:
    """The jinja2 environment over the folder `templates`; what it compiles is kept in `compiled`, if that is.

    It serves for the whole process.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from tsstack.parts.proxy.compiled import Compiled

    return Environment(
        loader=FileSystemLoader(templates),
        # Not for HTML: it makes a macro's text distinguishable (Markup) from a value (str).
        autoescape=True,
        finalize=guard,
        undefined=StrictUndefined,
        trim_blocks=_OPTIONS["trim_blocks"],
        lstrip_blocks=_OPTIONS["lstrip_blocks"],
        keep_trailing_newline=_OPTIONS["keep_trailing_newline"],
        bytecode_cache=Compiled(compiled, repr(_OPTIONS)) if compiled else None,
    )
