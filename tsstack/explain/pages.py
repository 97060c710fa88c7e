"""What `tsstack explain CODE` says, for every code of the model and every error's name. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from tsstack.errors import UsageError
from tsstack.explain.doctor_pages import FINDINGS
from tsstack.explain.error_pages import ERRORS
from tsstack.explain.examples import FILES, whole_file
from tsstack.explain.status_pages import REMARKS
from tsstack.model.codes import CODES

_NEAR = 3
STATUS = "status"


@dataclass(frozen=True, slots=True)
class Page:
    """One code: what it means, an example of it, and what to write or do instead."""

    code: str
    kind: str
    """error, warning or info; of a running host `status LEVEL`; of what ends a command `exit N`."""
    title: str
    text: str
    wrong: str
    right: str
    example: str = ""
    """A whole file that has the fault, where a file alone can have it."""


def all_pages() -> tuple[Page, ...]:
    """Every page: the codes of `tsstack check`, of `ts-status` and `doctor`, the errors by exit code."""
    codes = [
        Page(
            each.code,
            each.severity,
            each.title,
            each.text,
            each.wrong,
            each.right,
            whole_file(each.code, each.wrong) if each.code in FILES else "",
        )
        for each in CODES.values()
    ]
    errors = [
        Page(each.name, f"exit {each.exit_code}", each.title, each.text, each.example, each.mend)
        for each in ERRORS
    ]
    remarks = [
        Page(each.code, f"{STATUS} {each.level}", each.title, each.text, each.seen, each.mend)
        for each in (*REMARKS, *FINDINGS)
    ]
    return (*codes, *remarks, *errors)


def titles_of(page: Page) -> tuple[str, str]:
    """What stands above a page's two examples."""
    if page.kind.startswith("exit"):
        return "Example:", "To mend it:"
    return ("Seen as:", "To mend it:") if page.kind.startswith(STATUS) else ("Wrong:", "Right:")


def find_pages(word: str) -> tuple[Page, ...]:
    """The page of a code (`TS205`, `ts205`, `205`) or an error (`LockedError`); all of an exit code (`4`).

    Raises UsageError with the nearest known ones.
    """
    pages = all_pages()
    wanted = word.lower()
    if found := [
        page for page in pages if wanted in {page.code.lower(), page.code.lower().removeprefix("ts")}
    ]:
        return tuple(found)
    if found := [page for page in pages if page.kind == f"exit {word}"]:
        return tuple(found)
    raise UsageError(f"there is no code {word!r}", hint=_nearest(wanted, [page.code for page in pages]))


def _nearest(wanted: str, known: Sequence[str]) -> str:
    lower = {code.lower(): code for code in known}
    starts = [code for low, code in lower.items() if wanted and low.startswith(wanted)][:_NEAR]
    # Letters that look like figures: people type codes off a screen.
    meant = "ts" + wanted.removeprefix("ts").translate(str.maketrans("oil", "011"))
    near = (
        starts
        or ([lower[meant]] if meant in lower else [])
        or [lower[each] for each in difflib.get_close_matches(wanted, lower, n=_NEAR)]
    )
    every = "`tsstack explain` lists all; a packet is SOURCE [INTERFACE] PROTO/PORT"
    return f"the nearest: {', '.join(near)}; {every}" if near else every


def render_pages() -> str:
    """docs/codes.md."""
    lines = [
        "# Codes",
        "",
        "What `tsstack check` says (TS0xx to TS6xx), what `ts-status` and `tsstack doctor` say of a "
        "running host (TS7xx), what the doctor finds beside that (TS8xx), then what a command that fails "
        "says. `tsstack explain CODE` prints one of these, `tsstack explain` lists them.",
        "",
    ]
    for page in all_pages():
        first, second = titles_of(page)
        language = "yaml" if first == "Wrong:" else "text"
        lines += [f"## {page.code}: {page.title}", "", f"*{page.kind}*", "", page.text, ""]
        for title, text in ((first, page.wrong), (second, page.right)):
            lines += [title, "", f"```{language}", text, "```", ""]
    return "\n".join(lines)
