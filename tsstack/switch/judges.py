"""Who judges a change beside the engines: the guard and the proof. They read one file, once.

The model is loaded only when one of them asks: a switch with nothing to do never does.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import CheckFailed, ConfigError
from tsstack.model.facts import Facts
from tsstack.parts.firewall.fallback import LINK as FALLBACK
from tsstack.switch.generations import SOURCE, part_tree, read_tree
from tsstack.switch.intent import Intent, load
from tsstack.switch.lockout import PAST_IT
from tsstack.switch.plan import Plan
from tsstack.switch.proof import Proving
from tsstack.switch.site import Site

if TYPE_CHECKING:
    from tsstack.model.loaded import LoadedStack
    from tsstack.model.names import Address
    from tsstack.model.stack import Stack
    from tsstack.prove.expected import Packet
    from tsstack.switch.ground import Planned
    from tsstack.switch.ways import Session, Way

# Of thousands of admin sources the model is asked about all, the kernel about so many.
_MOST_SENT = 200


class Judges:
    """The guard and the proof of one change of `site` to what `file` says.

    Without `admins` the guard asks about the operator's own sessions alone: the way back to what was live
    before is not barred by what others have been given since. A `bare` host has no table that could refuse
    somebody, and no file; tailscaled and the kernel are then as they were before tsstack. What is not
    `attended` nobody is told to be careful of. `past_it` is the hint where nothing else helps.
    """

    def __init__(
        self,
        site: Site,
        file: Path,
        facts: Facts,
        intent: Intent,
        *,
        admins: bool = True,
        bare: bool = False,
        attended: bool = True,
        past_it: str = PAST_IT,
    ) -> None:
        self._site, self._file, self._facts, self._intent = site, file, facts, intent
        self._admins, self._bare, self._past_it = admins, bare, past_it
        self._attended = attended
        self._doubts: list[str] = []

    @property
    def doubts(self) -> tuple[str, ...]:
        """What may close a way in, as far as was told by now: nothing that a switch is refused for."""
        return tuple(f"guard: {doubt}" for doubt in self._doubts)

    def keep_ways_in(self, staged: Path, plan: Plan) -> None:
        """Raise CheckFailed when the change would close a way in: by the rules, by tailscaled or the kernel.

        An old generation's file may not be readable any more: with nobody's session at stake it is live
        again all the same.
        """
        kernel = self._kernel(staged) if "kernel" in plan.names else None
        packets = {"firewall", "tailscale"} & set(plan.names)
        if not (packets or kernel):
            return
        if not self.sessions:
            self._say_who_is_not_known()
            if not self._admins or self._unreadable:
                return
        from tsstack.switch import guard

        if packets and not self._bare:
            self._doubts += guard.check_ways(self._standing, self._facts, self.ways, self._past_it)
        for part in self._site.parts:
            if part.name == "tailscale" and part.name in plan.names and self.ways:
                tree = part_tree(read_tree(staged), part.folder)
                self._doubts += guard.check_tailscale(
                    tree, part.observe(tree, self._facts), self.ways, self._facts, self._past_it
                )
        if kernel and self.ways:
            self._doubts += guard.check_kernel(kernel, self.ways, self._facts, self._past_it)

    def _say_who_is_not_known(self) -> None:
        from tsstack.switch.sessions import may_be_from_afar, operator_sessions

        told = operator_sessions()
        if not told and self._attended and may_be_from_afar():
            self._doubts.append(
                "nothing tells from where this terminal is used, and no session by SSH is open, so nobody's "
                "own session was asked about: --confirm undoes a change after which you do not come in again"
            )
        if told:
            self._doubts.append(
                f"this terminal was opened from {told[0].client}, by a session that is over: from where it "
                "is used now is not known, so nobody's own session was asked about"
            )

    def _kernel(self, staged: Path) -> Planned:
        from tsstack.switch.ground import planned

        return planned(part_tree(read_tree(staged), "kernel"), self._facts)

    def proving(self, *, everything: bool = False) -> Proving:
        """The proof of the change, or of all that the file asks for."""
        live = 0 if everything else self._site.store.current()
        return Proving(
            load=lambda: self.loaded,
            asked=self._packets,
            report=self._site.report,
            live=self._site.store.path(live) if live and not self._site.store.fault(live) else None,
        )

    @cached_property
    def loaded(self) -> LoadedStack:
        """The file. Raises CheckFailed for one that cannot be read any more (an old generation's)."""
        if isinstance(self._read, ConfigError):
            raise CheckFailed(
                f"whether you keep your way in cannot be told: {self._read}",
                hint=self._past_it,
            )
        return self._read

    @property
    def _unreadable(self) -> ConfigError | None:
        return self._read if isinstance(self._read, ConfigError) else None

    @cached_property
    def _read(self) -> LoadedStack | ConfigError:
        if self._intent.loaded is not None:
            return self._intent.loaded
        try:
            return load(self._file, None)[0]
        except ConfigError as error:
            return error

    @cached_property
    def _standing(self) -> Stack:
        """The file with the firewall that stands then: the fallback's, where it has none."""
        stack = self.loaded.stack
        source = self._site.paths.state / FALLBACK / SOURCE
        if (stack.firewall is not None and stack.firewall.enabled) or not source.exists():
            return stack
        return stack.model_copy(update={"firewall": load(source, None)[0].stack.firewall})

    @cached_property
    def sessions(self) -> tuple[Session, ...]:
        """The operator's own; where nothing is known of the operator, all that are open."""
        from tsstack.switch.sessions import sessions_at_stake

        return sessions_at_stake(others=self._admins)

    @cached_property
    def ways(self) -> list[Way]:
        """The ways in that have to stay open. Raises CheckFailed when there is no route back to a session."""
        from tsstack.prove.expected import TAILNET, TAILNET_INTERFACE
        from tsstack.switch.arrivals import with_other_arrivals, with_shut
        from tsstack.switch.ground import drops_lopsided
        from tsstack.switch.guard import ways_of_sessions
        from tsstack.switch.logins import listening_ports
        from tsstack.switch.reach import Reach
        from tsstack.switch.routes import networks_behind, networks_beside, own_addresses
        from tsstack.switch.ways import ways_of_admins

        ports = [session.port for session in self.sessions if session.protocol == "tcp"]
        holders: dict[Address, list[str]] = {}
        for address, interface, _ in own_addresses():
            holders.setdefault(address, []).append(interface)
        own = ways_of_sessions(self.sessions, past_it=self._past_it)
        own = with_other_arrivals(own, holders, drops_lopsided, lambda: self._in_force, self._facts)
        own = with_shut(own, lambda: self._in_force, self._facts)
        if not self._admins or not self._may_have_admins():
            return [*own, *self._carriers(own)]
        of_admins = ways_of_admins(
            self._live,
            self.loaded.stack,
            self._facts,
            ports,
            beside=networks_beside(TAILNET_INTERFACE, TAILNET),
            served=listening_ports(),
            own=holders,
            behind=networks_behind(),
            reach=Reach(self._facts),
            tell=self._doubts.append,
        )
        return [*own, *of_admins, *self._carriers([*own, *of_admins])]

    def _carriers(self, ways: list[Way]) -> list[Way]:
        """The packets that carry the tunnels that some come by."""
        from tsstack.switch.carriers import Carriers
        from tsstack.switch.ground import below
        from tsstack.switch.guard import with_routes
        from tsstack.switch.routes import route_to
        from tsstack.switch.tunnels import read_tunnels

        try:
            tunnels = read_tunnels() if ways else {}
        except OSError as error:
            self._doubts.append(
                f"this host's tunnels cannot be told ({error}): what carries them was not asked about"
            )
            return []
        if not tunnels:
            return []
        after = (lambda: None) if self._bare else (lambda: self._standing)
        carriers = Carriers(tunnels, below, route_to, self._facts, live=lambda: self._in_force, after=after)
        return carriers.of(with_routes(ways))

    def _may_have_admins(self) -> bool:
        """Whether either file may speak of an admin zone. To read a long one for nothing takes a second."""
        from tsstack.switch.ways import has_admins

        store = self._site.store
        source = store.folder / str(store.current()) / SOURCE
        words = source.read_bytes() if source.exists() else b""
        # YAML can write a letter by its number, behind a backslash.
        return has_admins(self.loaded.stack) or b"admin" in words or b"\\" in words

    @cached_property
    def _live(self) -> Stack | None:
        """What the live generation's file says; None when no table of ours is live."""
        store = self._site.store
        number = store.current()
        source = store.folder / str(number) / SOURCE if number else None
        if source is None:
            return None
        if not source.exists():
            self._site.report("the live generation's file is gone, so only this file's admins are asked")
            return None
        if self._intent.loaded is not None and source.read_bytes() == self._intent.loaded.source:
            return self._intent.loaded.stack
        try:
            loaded, _ = load(source, None)
        except ConfigError as error:
            self._site.report(
                f"the live generation's file cannot be read, so only this file's admins are asked: {error}"
            )
            return None
        return loaded.stack

    @cached_property
    def _in_force(self) -> Stack | None:
        """The same; None too where another table stands, or one that was changed: it may let in more.

        A boot that failed leaves the fallback or an older generation's, a test that was cut off its own.
        """
        if self._live is None or self._live.firewall is None:
            return self._live
        firewall = next((part for part in self._site.parts if part.name == "firewall"), None)
        if firewall is None:
            return None
        from tsstack.parts.firewall.host import FILE

        store = self._site.store
        own = read_tree(store.folder / str(store.current())).get(FILE)
        told = firewall.observe({}, self._facts)
        loaded = own is not None and told.get("file") is not None and told.get("text") == own
        return self._live if loaded else None

    def _packets(self) -> list[Packet]:
        """The ways in as packets for the proof, so that the kernel has its say too."""
        from tsstack.prove.expected import Oracle
        from tsstack.switch.guard import LIVE

        if not self.ways:
            return []
        oracle = Oracle(self.loaded.stack, self._facts)
        # One that the guard refuses is told by the guard. Of mosh servers that are only there, the addresses
        # are what anybody says: no packet is made of them.
        # Nor of what carries a tunnel where it is no UDP, or not known.
        asked = [
            way
            for way in self.ways
            if not (way.packet.protocol == "udp" and way.whose == LIVE)
            and not (way.carrier and (way.carrier.unread or way.packet.protocol == "other"))
        ]
        return [way.packet for way in asked[:_MOST_SENT] if oracle.judge(way.packet).accepted]
