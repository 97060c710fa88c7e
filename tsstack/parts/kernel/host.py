"""The kernel part: makes parameters, bandwidth limits and offloads so, and brings the old ones back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.errors import ApplyFailed, CheckFailed, CommandFailed, RollbackFailed, TsstackError
from tsstack.parts.kernel import desired, links, plan, record
from tsstack.parts.kernel.plan import Live, Step, Wanted
from tsstack.parts.kernel.record import Record
from tsstack.parts.kernel.sysctl import Refused, Sysctls
from tsstack.system.command import run, which

if TYPE_CHECKING:
    from tsstack.model.facts import Facts
    from tsstack.model.stack import Stack
    from tsstack.parts.part import Change, Report, Snapshot, Tree

_CONNTRACK = "net.netfilter.nf_conntrack_"


class KernelPart:
    """See tsstack.parts.part.Part. `sysctls` points elsewhere in tests alone."""

    name = "kernel"
    folder = desired.FOLDER

    def __init__(self, sysctls: Sysctls | None = None) -> None:
        self.sysctls = sysctls or Sysctls()

    def desired(self, stack: Stack, facts: Facts) -> Tree:
        """The files of desired.py, empty when the file asks for nothing."""
        return desired.render(stack, facts)

    def check(self, generation: Path, facts: Facts) -> None:
        """Judge names, values, access and devices without changing any of them.

        Raises CheckFailed for an unknown or read-only parameter of the user's own, a value that the kernel
        refuses (as far as that can be tried in a network namespace of its own), a vanished interface,
        a queue that somebody else set up, or a limit that this kernel cannot enforce.
        """
        wanted = plan.parse(_tree(generation))
        for name in wanted.sysctl:
            self._check_sysctl(name, wanted)
        self._try_sysctls(wanted)
        live = self._live(wanted, facts)
        for interface in wanted.links:
            _check_link(interface, wanted, live, facts)

    def warnings(self, generation: Path, facts: Facts) -> tuple[str, ...]:
        """What was asked for and cannot be had here without being a failure."""
        wanted = plan.parse(_tree(generation))
        return tuple(self._limits_of_host(wanted, self._live(wanted, facts)))

    def unmet(self, tree: Tree, snapshot: Snapshot, facts: Facts) -> tuple[str, ...]:
        """Parameters of the user's own that belong to the machine outside: they never differ here."""
        wanted = plan.parse(tree)
        own = {name: goal for name, goal in wanted.sysctl.items() if desired.is_own(wanted.origins, name)}
        return tuple(self._limits_of_host(Wanted(own, wanted.origins, {}), plan.live_from_snapshot(snapshot)))

    def observe(self, tree: Tree, facts: Facts) -> Snapshot:
        """The live values of all that `tree` names, all that was touched before, and their side effects."""
        return {**self._live(plan.parse(tree), facts).as_json(), "scope": record.scope()}

    def stands_alone(self, facts: Facts) -> bool:
        """A device for a limit on an interface that is gone."""
        return bool(links.orphaned_devices())

    def changes(self, tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
        """One line per parameter, limit and offload that differs."""
        from tsstack.parts.part import Change

        return tuple(
            Change(_subject(step), _shown(step.before), _shown(step.after))
            for step in plan.steps(plan.parse(tree), plan.live_from_snapshot(snapshot))
            if step.before != step.after
        )

    def activate(self, generation: Path, facts: Facts, report: Report) -> None:
        """Write what differs, and nothing else; originals go to disk before the first write."""
        wanted = plan.parse(_tree(generation))
        self._load_conntrack(wanted)
        live = self._live_while_acting(wanted, facts)
        for line in self._limits_of_host(wanted, live):
            report(line)
        todo = plan.steps(wanted, live)
        _refuse_foreign_queues(live, todo)
        kept = _with_originals(live, todo)
        skipped = dict(kept.skipped)
        record.write(facts.paths.state, kept)
        for step in todo:
            try:
                self._take(step)
            except ApplyFailed as error:
                optional = not step.leaving and desired.is_optional(wanted.origins, step.subject)
                if not optional or (step.kind == "sysctl" and not isinstance(error, Refused)):
                    raise ApplyFailed(f"{_place(step, wanted)}{error.message}", hint=error.hint) from error
                skipped[step.subject] = step.after
                report(f"left as it is, this kernel has no such setting: {error.message}")
        record.write(facts.paths.state, _without_what_left(kept._replace(skipped=skipped), wanted))

    def verify(self, generation: Path, facts: Facts) -> None:
        """Read everything back. Raises ApplyFailed with what is not as asked."""
        wanted = plan.parse(_tree(generation))
        left = plan.steps(wanted, self._live_while_acting(wanted, facts))
        if left:
            first = left[0]
            raise ApplyFailed(
                f"{_subject(first)} is {_shown(first.before)} and not {_shown(first.after)}"
                + (f" (and {len(left) - 1} more)" if len(left) > 1 else ""),
                hint="the kernel spells or limits the value otherwise: write it as the kernel shows it",
            )

    def restore(self, snapshot: Snapshot, facts: Facts) -> None:
        """Write back every value of the snapshot that is no longer so, forwarding first.

        After a reboot the record of the snapshot is that of another boot. What this boot's kernel has
        before it is touched is noted instead.
        """
        hint = f"the old values are in {facts.paths.state / record.FILE}"
        try:
            old = plan.live_from_snapshot(snapshot)
            rebooted = snapshot.get("scope") != record.scope()
            if rebooted:
                record.write(facts.paths.state, self._originals_of_this_boot(old.record, facts))
            faults = [*self._restore_sysctls(old), *_restore_links(old), *_restore_features(old)]
            if not faults and not rebooted:
                record.write(facts.paths.state, old.record)
        except (CheckFailed, ApplyFailed) as error:
            faults = [error.message]
        if faults:
            raise RollbackFailed(f"the kernel is not wholly back: {'; '.join(faults)}", hint=hint)

    def _originals_of_this_boot(self, touched: Record, facts: Facts) -> Record:
        """What stands now of all that `touched` names, beside what was noted since the boot."""
        noted = record.read(facts.paths.state)
        sysctl = {name: now for name in touched.sysctl if (now := self.sysctls.read(name)) is not None}
        features = {}
        for interface, known in touched.features.items():
            now_on = links.observe_features(interface)
            features[interface] = {name: now_on[name] for name in known if name in now_on}
        return Record(
            sysctl | noted.sysctl, features | noted.features, touched.links | noted.links, noted.skipped
        )

    def _live(self, wanted: Wanted, facts: Facts) -> Live:
        kept = record.read(facts.paths.state)
        names = {*wanted.sysctl, *kept.sysctl}
        names |= {other for name in names for other in self._side_effects(name)}
        sysctl = {name: self.sysctls.read(name) for name in sorted(names)}
        fixed = tuple(
            name
            for name in wanted.sysctl
            if (sysctl[name] is not None and not self.sysctls.is_writable(name))
            or (sysctl[name] is None and self.sysctls.is_shared(name))
        )
        limited = [name for name in {*wanted.links, *kept.links} if wanted.limits(name) or name in kept.links]
        gro = {name for name, entry in wanted.links.items() if "udp_gro" in entry} | set(kept.features)
        features = {name: links.observe_features(name) for name in sorted(gro)}
        orphans = links.orphaned_devices()
        return Live(sysctl, fixed, links.observe_links(limited), features, kept, orphans)

    def _live_while_acting(self, wanted: Wanted, facts: Facts) -> Live:
        """Like _live; but by now things may have changed, so that a failure is one to roll back from."""
        try:
            return self._live(wanted, facts)
        except CheckFailed as error:
            raise ApplyFailed(error.message, hint=error.hint) from error

    def _side_effects(self, name: str) -> Iterator[str]:
        """Parameters that the kernel changes by itself when `name` is written.

        Undoing has to bring those back too, see desired.follows_forwarding.
        """
        if name == desired.IP_FORWARD:
            yield "net.ipv4.conf.all.accept_redirects"
            yield from self.sysctls.interfaces_with("ipv4", "forwarding")
        elif name == desired.IPV6_FORWARD:
            yield from self.sysctls.interfaces_with("ipv6", "forwarding")

    def _check_sysctl(self, name: str, wanted: Wanted) -> None:
        if desired.is_optional(wanted.origins, name):
            return
        place = wanted.origins[name]
        now = self.sysctls.read(name)
        if plan.same_value(now, wanted.sysctl[name]):
            return
        if now is None:
            if self.sysctls.is_shared(name) or name.startswith(_CONNTRACK):
                return  # the machine's, which is a warning; or there once the module is loaded
            nearest = self.sysctls.nearest(name)
            raise CheckFailed(
                f"{place}: this kernel has no parameter {name}",
                hint=f"did you mean {nearest}?" if nearest else "`sysctl -a` lists those it has",
            )
        if not self.sysctls.is_writable(name) and not self.sysctls.is_shared(name):
            raise CheckFailed(
                f"{place}: {name} cannot be written here",
                hint="it is read-only by nature, or /proc/sys is mounted so (a container?)",
            )

    def _try_sysctls(self, wanted: Wanted) -> None:
        if self.sysctls.root != Sysctls().root:
            return  # no kernel's
        new = {
            name: value
            for name, value in wanted.sysctl.items()
            if desired.is_own(wanted.origins, name) and not plan.same_value(self.sysctls.read(name), value)
        }
        if not new:
            return
        from tsstack.parts.kernel.trial import try_values

        for name, reason in try_values(new).items():
            raise CheckFailed(
                f"{wanted.origins[name]}: {new[name]!r}: {reason}",
                hint=f"here it is {self.sysctls.read(name)} now",
            )

    def _limits_of_host(self, wanted: Wanted, live: Live) -> Iterator[str]:
        goals = desired.targets(wanted.sysctl, wanted.origins, live.sysctl, live.record.sysctl)
        outside = []
        for name, goal in goals.items():
            now = live.sysctl[name]
            if plan.same_value(now, goal):
                continue
            if name in live.fixed:
                outside.append(f"{name} = {goal}")
            elif live.record.skipped.get(name) == goal:
                yield f"{name} stays {now}: this kernel refused {goal}"
        if outside:
            yield (
                "left to the machine outside, to whom these belong in a network namespace like this: "
                + ", ".join(outside)
            )
        for interface, entry in wanted.links.items():
            if entry.get("udp_gro") and not plan.supports_udp_gro(live.features.get(interface, {})):
                yield (
                    f"{interface} has no UDP GRO forwarding to switch on; routing works without it, slower "
                    "(it needs Linux 6.2, a driver that has it, and ethtool)"
                )

    def _load_conntrack(self, wanted: Wanted) -> None:
        """Connection tracking's parameters exist only once its module is loaded."""
        missing = [n for n in wanted.sysctl if n.startswith(_CONNTRACK) and self.sysctls.read(n) is None]
        if missing and not self.sysctls.is_shared(missing[0]) and which("modprobe"):
            run(["modprobe", "-q", "nf_conntrack"], check=False)

    def _take(self, step: Step) -> None:
        try:
            if step.kind == "sysctl":
                # Going back, an earlier step may have made it so already.
                if not step.leaving or self.sysctls.read(step.subject) != step.after:
                    self.sysctls.write(step.subject, step.after)
            elif step.kind == "feature":
                links.set_features(step.subject, {step.key: step.after})
            elif step.kind == "orphan":
                links.remove_orphan(step.subject)
            elif step.key == "ingress":
                links.set_ingress(step.subject, step.after)
            elif step.before is not None or step.after is not None:
                links.set_egress(step.subject, step.after)
        except (CommandFailed, CheckFailed) as error:
            raise ApplyFailed(f"{_subject(step)}: {error.message}", hint=error.hint) from error

    def _restore_sysctls(self, old: Live) -> Iterator[str]:
        for name in sorted(old.sysctl, key=plan.restore_order):
            value = old.sysctl[name]
            try:
                if value is not None and self.sysctls.read(name) not in {None, value}:
                    self.sysctls.write(name, value)
            except TsstackError as error:
                yield error.message


def _place(step: Step, wanted: Wanted) -> str:
    """The key of the file that asks for a step, as the start of a message."""
    if step.leaving:
        return ""
    if step.kind == "limit":
        return f"bandwidth.{step.subject}.{step.key}: "
    origin = wanted.origins.get(step.subject, "")
    return f"{origin}: " if "." in origin else ""


def _restore_links(old: Live) -> Iterator[str]:
    for interface, now in links.observe_links(old.links).items():
        was = old.links[interface]
        if not now.exists:
            continue
        exact = old.record.links.get(interface, {})
        for direction, change in (("egress", links.set_egress), ("ingress", links.set_ingress)):
            goal: record.Spec | None = getattr(was, direction)
            live: record.Spec | None = getattr(now, direction)
            if links.is_same(live, goal) and (goal or direction == "egress"):
                continue
            try:
                change(interface, exact.get(direction, goal) if goal else None)
            except CommandFailed as error:
                yield f"{interface} {direction}: {error.message}"
    for device in links.orphaned_devices():  # of an interface that vanished since, whose limit no record has
        try:
            links.remove_orphan(device)
        except (CommandFailed, CheckFailed) as error:
            yield f"{device}: {error.message}"


def _restore_features(old: Live) -> Iterator[str]:
    for interface, features in old.features.items():
        now = links.observe_features(interface)
        differing = {name: value for name, value in features.items() if name in now and now[name] != value}
        try:
            links.set_features(interface, differing)
        except CommandFailed as error:
            yield f"{interface}: {error.message}"


def _check_link(interface: str, wanted: Wanted, live: Live, facts: Facts) -> None:
    state = live.links.get(interface)
    limits = wanted.limits(interface)
    place = f"bandwidth.{interface}"
    if wanted.links[interface].get("udp_gro") == "required" and not plan.supports_udp_gro(
        live.features.get(interface, {})
    ):
        raise CheckFailed(
            f"kernel.udp_gro: {interface} has no UDP GRO forwarding to switch on",
            hint="leave kernel.udp_gro out: it is then switched on where it can be",
        )
    if not limits or state is None:
        return
    if which("tc") is None:
        raise CheckFailed(f"{place}: tc is not installed", hint="apt install iproute2")
    if not state.exists:
        if interface == desired.TAILNET_INTERFACE:
            return  # tailscaled makes it, perhaps later in this very switch
        near = ", ".join(facts.interfaces) or "none known"
        raise CheckFailed(f"{place}: there is no interface {interface}", hint=f"this host has: {near}")
    if "egress" in limits and state.foreign_root:
        raise CheckFailed(
            f"{place}.egress: {interface} already has a queue that is not ours: {state.foreign_root}",
            hint=f"remove it first: tc qdisc del dev {interface} root",
        )
    if "ingress" in limits:
        if state.foreign_ingress:
            raise CheckFailed(
                f"{place}.ingress: {interface} already has an ingress filter that is not ours: "
                f"{state.foreign_ingress}",
                hint=f"remove it first: tc qdisc del dev {interface} {state.foreign_ingress}",
            )
        if state.ingress is None:
            links.check_ingress()
    from tsstack.model.bucket import held_burst_bytes, why_not_held

    smallest = links.smallest_burst_bytes(state.mtu)
    for direction, spec in limits.items():
        burst = int(plan.effective_limit(spec, state.mtu, smallest=smallest)["burst_bytes"])
        # Lint has judged what the file says; a large MTU makes a default burst larger.
        reason, hint = why_not_held(int(spec["rate_bps"]), burst, spec["latency_s"])
        if reason:
            raise CheckFailed(f"{place}.{direction}: {reason} (MTU {state.mtu})", hint=hint)
        if burst < smallest or held_burst_bytes(int(spec["rate_bps"]), burst) < links.frame_bytes(state.mtu):
            least = max(smallest, int(links.frame_bytes(state.mtu) + spec["rate_bps"] / 8e6) + 1)
            raise CheckFailed(
                f"{place}.burst: {burst} bytes are less than one full packet of {interface} "
                f"(MTU {state.mtu}), so {direction} would let none pass",
                hint=f"write at least burst: {-(-least // 1024)}kb, or leave it out",
            )


def _refuse_foreign_queues(live: Live, todo: tuple[Step, ...]) -> None:
    """What `check` refuses may have come since, or an older generation is activated without it."""
    for step in todo:
        state = live.links.get(step.subject) if step.kind == "limit" and not step.leaving else None
        foreign = state and (state.foreign_root if step.key == "egress" else state.foreign_ingress)
        if foreign:
            raise ApplyFailed(f"{_subject(step)}: there is a queue that is not ours: {foreign}")


def _with_originals(live: Live, todo: tuple[Step, ...]) -> Record:
    """The record as it must be before `todo` begins: originals are added and never overwritten."""
    sysctl = dict(live.record.sysctl)
    features = {name: dict(found) for name, found in live.record.features.items()}
    limits = {name: dict(found) for name, found in live.record.links.items()}
    for step in todo:
        if step.leaving:
            continue
        if step.kind == "sysctl" and step.before is not None:
            sysctl.setdefault(step.subject, step.before)
            for family in desired.forwarded_families([step.subject]):
                for name, value in live.sysctl.items():
                    if value is not None and desired.follows_forwarding(name, family):
                        sysctl.setdefault(name, value)
        elif step.kind == "feature":
            features.setdefault(step.subject, {}).setdefault(step.key, step.before)
        elif step.kind == "limit":
            limits.setdefault(step.subject, {})[step.key] = step.after
    return Record(sysctl, features, limits, dict(live.record.skipped))


def _without_what_left(kept: Record, wanted: Wanted) -> Record:
    """The record without what the file no longer asks for and what has been brought back."""
    families = desired.forwarded_families(wanted.sysctl)
    return Record(
        {
            name: value
            for name, value in kept.sysctl.items()
            if name in wanted.sysctl or any(desired.follows_forwarding(name, family) for family in families)
        },
        {n: found for n, found in kept.features.items() if "udp_gro" in wanted.links.get(n, {})},
        {
            n: {key: spec for key, spec in found.items() if key in wanted.limits(n)}
            for n, found in kept.links.items()
            if wanted.limits(n)
        },
        {name: value for name, value in kept.skipped.items() if name in wanted.sysctl},
    )


def _tree(generation: Path) -> dict[str, str]:
    folder = generation / desired.FOLDER
    if not folder.is_dir():
        return {}
    return {f"{desired.FOLDER}/{path.name}": path.read_text() for path in folder.glob("*.json")}


def _subject(step: Step) -> str:
    return f"{step.subject} {step.key}".strip()


def _shown(value: Any) -> str | None:
    if isinstance(value, dict):
        rate, burst = int(value["rate_bps"]), int(value["burst_bytes"])
        return f"{rate} bit/s, burst {burst} bytes, latency {value['latency_s']:g} s"
    return None if value is None else str(value)


PART = KernelPart()
