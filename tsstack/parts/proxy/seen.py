"""What the proxy part saw of the live host, typed, and how that differs from a plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.parts.part import Change
from tsstack.parts.proxy.discovery import OWN_HTTP, OWN_MAIN

if TYPE_CHECKING:
    from tsstack.parts.part import JsonValue, Snapshot
    from tsstack.parts.proxy.plan import Plan


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at nginx and what is ours around it."""

    main_config: str
    """The distribution's main file; empty where nginx runs on our own."""
    links: dict[str, str | None]
    """Our links in /etc/nginx and their targets."""
    running: bool
    loaded: str
    """Digest of the generation that nginx serves; empty when it serves nothing of ours."""
    services: dict[str, str]
    """Digests of the services in that generation."""
    settings: dict[str, dict[str, Any]]
    """What the file said of those that the new one would change; empty where that is not on record."""
    identity: bool
    """The identity daemon answers, with the code that it should have."""
    identity_started: bool
    """There is one at all."""
    due: tuple[str, ...]
    """First names of the certificates that have to be made or renewed."""
    record: dict[str, Any]
    """What was noted at the last reload."""
    ran_before: str = ""
    """Whether nginx ran before tsstack, as it was noted."""
    outdated: bool = False
    """It runs another program than the one that is installed."""

    def to_snapshot(self) -> Snapshot:
        """As JSON."""
        return {**asdict(self), "due": list(self.due)}


def parse_seen(snapshot: Snapshot) -> Seen:
    """The value of `to_snapshot`, of this version or another. Raises TypeError or KeyError for anything else.

    A record of a change that is to be undone may be older than the program, or newer.
    """
    raw: dict[str, Any] = {each.name: snapshot[each.name] for each in fields(Seen) if each.name in snapshot}
    return Seen(**{**raw, "due": tuple(raw["due"])})


def changed_settings(
    plan: Plan | None, live: Plan | None, known: dict[str, Any]
) -> dict[str, dict[str, JsonValue]]:
    """What the live file says of the services that `plan` changes."""
    if plan is None or live is None or live.services != known:
        return {}
    return {
        key: settings
        for key, settings in live.settings.items()
        if plan.services.get(key, known[key]) != known[key]
    }


def list_changes(plan: Plan | None, seen: Seen) -> tuple[Change, ...]:
    """What activating `plan` (None: nothing is asked for) would change. Pure."""
    return _leftovers(seen) if plan is None else _differences(plan, seen)


def _leftovers(seen: Seen) -> tuple[Change, ...]:
    """What of ours is there although the file asks for none."""
    found = [Change(f"link {link}", target) for link, target in seen.links.items() if target]
    if seen.loaded:
        found.append(Change("proxied services", ", ".join(sorted(seen.services)), None))
    if seen.identity_started:
        found.append(Change("identity daemon", "running", None))
    return tuple(found)


def _differences(plan: Plan, seen: Seen) -> tuple[Change, ...]:
    found = [*_service_changes(plan, seen)]
    if seen.loaded != plan.digest and not found:
        found.append(Change("nginx configuration", seen.loaded or "none", plan.digest))
    wanted = {Path(OWN_HTTP).name: bool(plan.main_config), Path(OWN_MAIN).name: plan.has_main}
    for link, target in seen.links.items():
        present = wanted[Path(link).name] and bool(plan.main_config)
        if present != bool(target):
            found.append(Change(f"link {link}", target, "set" if present else None))
    if not seen.running:
        found.append(Change("nginx", "stopped", "running"))
    elif seen.outdated:
        found.append(Change("nginx", "runs a program that was exchanged", "restarted"))
    found += [_certificate_change(plan, seen, name) for name in seen.due]
    if plan.identity and not seen.identity:
        found.append(Change("identity daemon", None, "running"))
    elif seen.identity_started and not plan.identity:
        found.append(Change("identity daemon", "running", None))
    return tuple(found)


def _certificate_change(plan: Plan, seen: Seen, name: str) -> Change:
    certificate = next(each for each in plan.certificates if each.names[0] == name)
    subject, source = f"certificate for {name}", certificate.source_certificate
    if certificate.kind != "files":
        verb = "made" if certificate.kind == "local-ca" else "fetched"
        return Change(subject, None, f"{verb} or renewed")
    if certificate.certificate in seen.record.get("certificates", {}):
        return Change(subject, f"{source} as nginx loaded it", "as it is on disk now")
    return Change(subject, None, source)


def _service_changes(plan: Plan, seen: Seen) -> list[Change]:
    found = []
    for key in sorted({*seen.services, *plan.services}):
        url = plan.urls.get(key, "")
        if key not in seen.services:
            found.append(Change(f"service {key}", None, url))
        elif key not in plan.services:
            found.append(Change(f"service {key}", "served", None))
        elif seen.services[key] != plan.services[key]:
            found += _setting_changes(key, plan, seen) or [
                Change(f"service {key}", "as before", f"changed, at {url}")
            ]
    return found


def _setting_changes(key: str, plan: Plan, seen: Seen) -> list[Change]:
    """The keys of one service that changed in the file; none when the cause is elsewhere in it."""
    if key not in seen.settings:
        return []
    before, after = seen.settings[key], plan.settings[key]
    return [
        Change(f"service {key}, {name}", _shown(before, name), _shown(after, name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _shown(settings: dict[str, Any], name: str) -> str:
    value = settings.get(name)
    if value is None:
        return "default"
    words = [str(each) for each in value] if isinstance(value, list) else [str(value)]
    if name == "upstream" and settings.get("protocol") == "tcp":
        words = [each.removeprefix("http://").removeprefix("https://") for each in words]
    return ", ".join(words)
