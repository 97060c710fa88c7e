"""What a code is: one remark that tsstack can make about a file, declared once."""

from __future__ import annotations

from dataclasses import dataclass

from tsstack.errors import Severity

DECLARED: dict[str, Code] = {}


@dataclass(frozen=True, slots=True)
class Code:
    """One remark: its stable code, how bad it is, and what `tsstack explain` says about it."""

    code: str
    severity: Severity
    title: str
    text: str
    wrong: str
    right: str

    @property
    def explanation(self) -> str:
        """The text, and an example of wrong and right."""
        return f"{self.text}\n\nWrong:\n{_indent(self.wrong)}\n\nRight:\n{_indent(self.right)}"


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def declare(  # noqa: PLR0917  # a table of constants, read in this order
    code: str, severity: Severity, title: str, text: str, wrong: str, right: str
) -> Code:
    """Declare a code. Raises ValueError for one that is taken."""
    if code in DECLARED:
        raise ValueError(f"{code} is declared twice")
    DECLARED[code] = Code(code, severity, title, text, wrong, right)
    return DECLARED[code]
