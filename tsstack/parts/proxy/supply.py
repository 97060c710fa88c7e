"""Brings the certificates that a plan names to where nginx loads them, when that is due."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tsstack.errors import ApplyFailed, CheckFailed
from tsstack.parts.proxy.pem import Mark, is_same, mark_pair

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.parts.part import Report
    from tsstack.parts.proxy.plan import Certificate, Plan

Marks = dict[str, Mark]
"""Of each certificate of the user's own, by the path that nginx loads: what was there when it did."""


def marks_of(record: dict[str, Any]) -> Marks:
    """What was noted at the last reload; empty when nothing is known of it."""
    noted = record.get("certificates")
    return {path: mark for path, mark in noted.items() if isinstance(mark, dict)} if noted else {}


def mark_certificates(plan: Plan, known: Marks) -> Marks:
    """The marks of what nginx will load. To be taken before it does: what changes meanwhile is seen later."""
    marks = {}
    for each in plan.certificates:
        mark = mark_pair(each, known.get(each.certificate)) if each.kind == "files" else None
        if mark is not None:
            marks[each.certificate] = mark
    return marks


def list_due(plan: Plan | None, known: Marks, *, force: bool = False) -> tuple[str, ...]:
    """First names of the certificates to be made, fetched, linked, renewed, or loaded anew."""
    if plan is None or not plan.certificates:
        return ()
    from tsstack.parts.proxy.authority import is_due

    now_s = time.time()
    return tuple(
        each.names[0]
        for each in plan.certificates
        if force or is_due(each, now_s) or _is_replaced(each, known.get(each.certificate))
    )


def provide_certificates(
    plan: Plan, facts: Facts, report: Report, known: Marks, *, force: bool = False
) -> tuple[str, ...]:
    """Provide what is due; returns the first names. Raises ApplyFailed; what was there before stays then."""
    due = list_due(plan, known, force=force)
    if not due:
        return ()
    from tsstack.parts.proxy.authority import provide

    for certificate in plan.certificates:
        if certificate.names[0] in due:
            try:
                provide(
                    certificate,
                    facts.paths.tls,
                    plan.tailnet,
                    facts.paths.tailscale_socket,
                    now_unix_s=time.time(),
                )
            except CheckFailed as error:
                raise ApplyFailed(error.message, hint=error.hint) from error
            source = f" from {certificate.source_certificate}" if certificate.kind == "files" else ""
            report(f"certificate for {', '.join(certificate.names[:3])}{source}")
    return due


def _is_replaced(certificate: Certificate, known: Mark | None) -> bool:
    return certificate.kind == "files" and not is_same(mark_pair(certificate, known), known)
