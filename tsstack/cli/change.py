"""Verbs that change the host: switch, test, boot, confirm, rollback; and dry-activate, which does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tsstack.cli.known_names import complete_generation
from tsstack.cli.options import Seconds, file_option, json_option, unused_file_option
from tsstack.cli.output import chatter, print_findings, progress, result, result_json, style
from tsstack.errors import UsageError
from tsstack.switch.intent import Intent, read_intent
from tsstack.switch.plan import Plan
from tsstack.switch.site import Site
from tsstack.switch.transaction import Mode, Outcome, observe_changes, unmet_warnings
from tsstack.switch.verbs import (
    UNPROVEN,
    activate_boot,
    activate_firewall_early,
    confirm_change,
    not_at_boot,
    roll_back,
    stage_for_boot,
)
from tsstack.switch.verbs import switch as switch_host

# Changes of one part, and warnings, that a screen takes.
_LISTED = 20

confirm_option = click.option(
    "--confirm",
    "confirm_s",
    type=Seconds(),
    metavar="60s",
    help="Undo the change unless `tsstack confirm` comes within this time.",
)
force_option = click.option(
    "--force-lockout",
    is_flag=True,
    help="Go on although your own session could not be opened anew; needs --confirm.",
)
pending_option = click.option(
    "--pending",
    default="",
    metavar="CHANGE",
    hidden=True,
    help="Only this change, while it waits (`pending` of `ts-status --json`): for who asked about it before.",
)
no_prove_option = click.option(
    "--no-prove",
    is_flag=True,
    help="Change the host without having proven with packets that the rules do what the file says.",
)


def _site(as_json: bool) -> Site:
    return Site(report=progress(quiet=as_json))


@click.command()
@file_option
@json_option
@confirm_option
@force_option
@no_prove_option
@click.option(
    "--unattended",
    is_flag=True,
    help="For units: refuse a file that was undone because nobody confirmed it.",
)
def switch(
    file: Path,
    *,
    as_json: bool,
    confirm_s: float | None,
    force_lockout: bool,
    no_prove: bool,
    unattended: bool,
) -> None:
    """Make the host as the file says, now and for every boot.

    One transaction: the file is judged, rendered and staged, the real engines check the result, packets
    prove in a throwaway network that it does what the file says, then part by part is activated and asked
    with new connections. Any failure undoes all of it.

    \b
    Examples:
      tsstack switch
      tsstack switch --confirm 60s     then, from a NEW session: tsstack confirm
    """
    outcome, intent = switch_host(
        _site(as_json),
        file,
        Mode(confirm_s=confirm_s),
        force_lockout=force_lockout,
        prove=not no_prove,
        unattended=unattended,
    )
    _print_outcome(outcome, intent, as_json, "is live")


@click.command()
@file_option
@json_option
@confirm_option
@force_option
@no_prove_option
def test(file: Path, as_json: bool, confirm_s: float | None, force_lockout: bool, no_prove: bool) -> None:
    """Make the host as the file says until the next reboot.

    \b
    Example:
      tsstack test               a reboot brings back what was there before
    """
    mode = Mode(boot=False, confirm_s=confirm_s)
    outcome, intent = switch_host(_site(as_json), file, mode, force_lockout=force_lockout, prove=not no_prove)
    _print_outcome(outcome, intent, as_json, "is live until the next reboot")


@click.command()
@file_option
@json_option
@no_prove_option
def boot(file: Path, as_json: bool, no_prove: bool) -> None:
    """Make the host as the file says at the next boot; nothing live is touched.

    \b
    Example:
      tsstack boot               proven and staged, for the next boot
    """
    site = _site(as_json)
    manifest, new, intent = stage_for_boot(site, file, prove=not no_prove)
    print_findings(intent.findings, to_stdout=False)
    facts = site.facts()
    unmet = unmet_warnings(site, intent.wanted.tree, facts)
    said = (UNPROVEN if no_prove else "", not_at_boot(facts), *unmet)
    warnings = [each for each in said if each]
    if as_json:
        result_json({"generation": manifest.number, "new": new, "warnings": warnings})
    else:
        _print_warnings(warnings)
        result(f"generation {manifest.number} comes up at the next boot")


@click.command()
@unused_file_option
@json_option
@click.option("--same-session", is_flag=True, help="Take it from the session that ran the switch.")
@pending_option
def confirm(as_json: bool, same_session: bool, pending: str) -> None:
    """Keep the switch that waits for its confirmation.

    Run it from a NEW session: that you can open one is what it confirms. The SSH session that ran the
    switch is refused, since it would live on under any rules.

    \b
    Example:
      tsstack confirm            from a NEW session
    """
    number = confirm_change(_site(as_json), same_session=same_session, pending_only=pending)
    result_json({"generation": number}) if as_json else result(f"generation {number} is confirmed")


@click.command()
@unused_file_option
@json_option
@click.option(
    "--to",
    type=int,
    metavar="N",
    shell_complete=complete_generation,
    help="The generation to go back to; 0 is the host without tsstack.",
)
@pending_option
@confirm_option
@force_option
def rollback(
    as_json: bool, to: int | None, pending: str, confirm_s: float | None, force_lockout: bool
) -> None:
    """Go back to the generation before, or to any other; needs no network.

    A switch that waits for its confirmation is undone first.

    \b
    Examples:
      tsstack rollback
      tsstack rollback --to 3
    """
    outcome = roll_back(
        _site(as_json), to, Mode(confirm_s=confirm_s), force_lockout=force_lockout, pending_only=pending
    )
    _print_outcome(outcome, None, as_json, "is live")


@click.command(hidden=True)
@unused_file_option
@json_option
@click.option("--boot", "booting", is_flag=True, help="Bring up the boot generation afterwards.")
@click.option("--early", is_flag=True, help="Only its firewall, before any interface is up.")
@click.option("--dns", is_flag=True, help="Only split DNS, where another program has cleared it.")
def recover(as_json: bool, booting: bool, early: bool, dns: bool) -> None:
    """Judge what a killed command or a power cut left behind."""
    if dns + early + booting > 1:
        raise UsageError("--boot, --early and --dns are three different things", hint="give one of them")
    deed = _keep_dns if dns else _close_early if early else _bring_up if booting else _judge_remains
    deed(_site(as_json), as_json)


def _keep_dns(site: Site, as_json: bool) -> None:
    from tsstack.switch.keeping import keep_dns

    links = keep_dns(site)
    said = f"set again: {', '.join(links)}" if links else "no interface has lost its DNS"
    result_json({"links": [*links]}) if as_json else result(said)


def _close_early(site: Site, as_json: bool) -> None:
    number, said = activate_firewall_early(site)
    result_json({"generation": number}) if as_json else result(said)


def _bring_up(site: Site, as_json: bool) -> None:
    outcome, said = activate_boot(site)
    if said:
        chatter(said)
    _print_outcome(outcome, None, as_json, "is live")


def _judge_remains(site: Site, as_json: bool) -> None:
    from tsstack.switch.lock import host_lock
    from tsstack.switch.recovery import recover as judge

    with host_lock(site.paths.state, site.clock):
        site.store.prepare()
        done = judge(site)
    if as_json:
        result_json({"undone": done.target if done else None, "reason": done.reason if done else ""})
    else:
        result(f"generation {done.target} was undone: {done.reason}" if done else "nothing to recover")


@click.command("dry-activate")
@file_option
@json_option
def dry_activate(file: Path, as_json: bool) -> None:
    """Say what a switch would change on this host, part by part, and stop there.

    \b
    Examples:
      tsstack dry-activate
      tsstack dry-activate --json | jq .parts
    """
    site = _site(as_json)
    facts = site.facts()
    intent = read_intent(site, file, facts)
    _, plan = observe_changes(site, intent.wanted.tree, facts)
    lost = site.store.fault(site.store.current())
    warnings = [*([f"{lost}, and it is live: a switch makes a new one"] if lost else ()), *plan.warnings()]
    if as_json:
        result_json({"parts": _plan_dict(plan), "warnings": warnings})
        return
    print_findings(intent.findings, to_stdout=False)
    _print_warnings(warnings)
    _print_plan(plan)
    if not plan and not lost:
        result("nothing to do: the host is as the file says")


def _plan_dict(plan: Plan) -> dict[str, Any]:
    return {
        each.part: [{"subject": c.subject, "before": c.before, "after": c.after} for c in each.changes]
        for each in plan.parts
    }


def _print_plan(plan: Plan) -> None:
    marks = {"+": "green", "-": "red", "~": "yellow"}
    for each in plan.parts:
        result(style(each.part, bold=True))
        shown = each.changes[:_LISTED]
        for change in shown:
            text = str(change)
            result("  " + style(text, fg=marks[text[0]]))
        if len(each.changes) > len(shown):
            result(f"  ... and {len(each.changes) - len(shown)} more (--json lists them)")


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings[:_LISTED]:
        chatter(f"{style('warning:', fg='yellow')} {warning}")
    if len(warnings) > _LISTED:
        chatter(f"... and {len(warnings) - _LISTED} more (--json lists them)")


def _print_outcome(outcome: Outcome, intent: Intent | None, as_json: bool, state: str) -> None:
    """Say what became of it. Where stdout takes nothing, that is said beside what was done all the same."""
    try:
        _say_outcome(outcome, intent, as_json, state)
    except OSError as error:
        done = f"generation {outcome.generation} {state} all the same"
        chatter(f"error: stdout cannot be written: {error.strerror}; {done}")
        raise click.exceptions.Exit(1) from error


def _say_outcome(outcome: Outcome, intent: Intent | None, as_json: bool, state: str) -> None:
    findings = intent.findings if intent else ()
    if as_json:
        result_json(
            {
                "generation": outcome.generation,
                "previous": outcome.previous,
                "changed": outcome.changed,
                "parts": _plan_dict(outcome.plan),
                "warnings": list(outcome.warnings),
                "awaits_confirmation": outcome.deadline_s is not None,
                "durations_s": {name: round(each, 4) for name, each in (outcome.durations_s or {}).items()},
            }
        )
        return
    print_findings([each for each in findings if each.severity != "info"], to_stdout=False)
    _print_warnings(outcome.warnings)
    if not outcome.changed:
        result(f"nothing to do: generation {outcome.generation} is live and the host is as the file says")
        return
    _print_plan(outcome.plan)
    result(style(f"generation {outcome.generation} {state}", bold=True) + f" (before: {outcome.previous})")
    if outcome.deadline_s is not None:
        result("It is undone by itself unless you run `tsstack confirm` from a NEW session in time.")
