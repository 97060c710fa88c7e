"""tailscaled made as the file says, through its LocalAPI alone."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsstack.errors import ApplyFailed, CheckFailed, RollbackFailed, TsstackError
from tsstack.parts.tailscale import desired as wants
from tsstack.parts.tailscale.address import await_bindable
from tsstack.parts.tailscale.enrolment import describe_control, enrol, is_enrolled, needs_login, read_auth_key
from tsstack.parts.tailscale.exit_nodes import has_candidate, offered_exits, require_exit_node
from tsstack.parts.tailscale.originals import (
    read_originals,
    remember_originals,
    write_originals,
)
from tsstack.parts.tailscale.restoration import restore_prefs, restore_stranger
from tsstack.parts.tailscale.services import live_services, owned_services, set_services
from tsstack.parts.tailscale.withdrawn import stands_direct, withdrawn_routes
from tsstack.system.localapi import Json, LocalApi, LocalApiAway, LocalApiError, LocalApiTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tsstack.model.facts import Facts, Paths, TailscaleFacts
    from tsstack.model.stack import Stack
    from tsstack.parts.part import Change, Report, Snapshot, Tree

_DEFAULT_PORT = 41641


def discover_tailscale(paths: Paths) -> TailscaleFacts | None:
    """What tailscaled says of itself; None when there is no tailscaled to ask."""
    from tsstack.model.facts import TailscaleFacts

    api = LocalApi(paths.tailscale_socket, timeout_s=2.0)
    if not paths.tailscale_socket.exists():
        return None
    try:
        status, prefs = api.status(peers=False), api.prefs()
    except LocalApiError:
        return None
    own = status.get("Self") or {}
    return TailscaleFacts(
        version=_parse_version(str(status.get("Version", ""))),
        backend_state=str(status.get("BackendState", "")),
        addresses=tuple(status.get("TailscaleIPs") or ()),
        dns_name=str(own.get("DNSName", "")).rstrip("."),
        magic_dns_suffix=str(status.get("MagicDNSSuffix", "")),
        control_url=str(prefs.get("ControlURL", "")),
        port=_own_port(own.get("Addrs") or ()),
    )


@dataclass(frozen=True, slots=True)
class TailscalePart:
    """The tailnet's side of this host. All limits are in seconds."""

    enrol_timeout_s: float = 30.0
    address_timeout_s: float = 15.0
    online_timeout_s: float = 10.0
    approval_timeout_s: float = 3.0
    """How long to wait for news of a policy's own approval before `warnings` speaks of it."""
    away_after_s: float = 10.0
    """Only a tailscaled that has not answered for so long is away: a restart takes a second or two."""
    name: str = "tailscale"
    folder: str = "tailscale"

    def desired(self, stack: Stack, facts: Facts) -> Tree:
        """Prefs and enrolment as JSON; see `desired.py`."""
        return wants.desired(stack, facts)

    def changes(self, tree: Tree, snapshot: Snapshot) -> tuple[Change, ...]:
        """The differences, by the keys of the file."""
        return wants.changes(tree, snapshot)

    def check(self, generation: Path, facts: Facts) -> None:
        """Let tailscaled judge the prefs; see that the key can be read if it will be needed."""
        loaded = _load(generation)
        if loaded is None:
            return
        wanted, enrolment = loaded
        api = _api(facts)
        with _mapped(CheckFailed):
            status, prefs = api.status(peers=wanted["exit_node"] is not None), api.prefs()
            if needs_login(status, prefs):
                read_auth_key(enrolment)
            elif not wants.same_control(str(prefs.get("ControlURL", "")), enrolment["login_server"]):
                raise CheckFailed(
                    f"tailscale.login_server: this host has joined {describe_control(prefs['ControlURL'])}, "
                    f"the file says {describe_control(enrolment['login_server'])}",
                    hint="`tailscale logout` first, from a session that does not come over the tailnet",
                )
            elif status.get("BackendState") == "Running":
                require_exit_node(wanted, prefs, offered_exits(status))
        merged = {name: value for name, value in prefs.items() if name != "Config"} | wanted["prefs"]
        if wanted["exit_node"] is not None:
            # Its id is known at activation only; any will do to judge the combination.
            merged["ExitNodeID"] = prefs.get("ExitNodeID") or "0"
        try:
            api.check_prefs(merged)
        except LocalApiError as error:
            if error.status != 200:
                raise CheckFailed(error.message, hint=error.hint) from error
            raise CheckFailed(f"{_blame(error.message)}: tailscaled refuses: {error.message}") from error

    def observe(self, tree: Tree, facts: Facts) -> Snapshot:
        """State, prefs without keys, who offers an exit, and which services are served."""
        wanted = json.loads(tree[wants.PREFS_FILE]) if wants.PREFS_FILE in tree else None
        owned, originals = owned_services(_state(facts)), read_originals(_state(facts))
        if wanted is None and not owned and originals is None:
            return {}
        api = _api(facts)
        with _mapped(CheckFailed):
            try:
                prefs = api.prefs() if wanted is not None else _patient_prefs(api, self.away_after_s)
            except LocalApiAway:
                if wanted is None:  # it was stopped or removed: nothing of it stands
                    return {"away": True, "originals": originals}
                raise
            uses_exit = bool(prefs.get("ExitNodeID") or (originals or {}).get("ExitNodeID")) or (
                wanted is not None and wanted["exit_node"] is not None
            )
            status = api.status(peers=uses_exit)
            names = {*owned, *(wanted["services"] if wanted else ())}
            services = live_services(api, names) if names else {}
        return {
            "asked": wanted is not None,
            "backend_state": status.get("BackendState"),
            "needs_login": needs_login(status, prefs),
            "enrolled": is_enrolled(prefs),
            "control_url": prefs.get("ControlURL"),
            "prefs": {name: value for name, value in prefs.items() if name != "Config"},
            "exit_nodes": list(offered_exits(status)),
            "own_name": _own_name(status),
            "services": services,
            "owned_services": list(owned),
            "originals": originals,
            "withdrawn": list(withdrawn_routes(facts.paths.state)),
            "direct": stands_direct(facts.paths.state),
        }

    def activate(self, generation: Path, facts: Facts, report: Report) -> None:
        """Join if needed, then send the differing prefs in one patch, then wait for the address.

        Without tailscale in the file the prefs become again what they were before tsstack, in one patch
        too. The node stays on the tailnet, and up: leaving it could cut off who asks for this.
        """
        loaded = _load(generation)
        api, state = _api(facts), _state(facts)
        if loaded is None:
            # `observe` has waited already, and what is waited here a `--confirm` may lack.
            _leave(api, state, report, away_after_s=self.away_after_s / 2)
            return
        wanted, enrolment = loaded
        with _mapped(ApplyFailed):
            owned, prefs = owned_services(state), api.prefs()
            remember_originals(state, prefs, wanted["prefs"], enrolled=is_enrolled(prefs))
            if needs_login(api.status(peers=False), prefs):
                report(f"joining {enrolment['login_server']} as {enrolment['hostname']}")
                enrol(api, enrolment, wanted["prefs"], timeout_s=self.enrol_timeout_s)
            self._align(api, wanted, report, facts.paths.state)
            if wanted["services"] or owned:
                set_services(api, state, wanted["services"], owned=owned)
            status = self._await(api, _is_up, self.address_timeout_s)
        if not _is_up(status):
            raise ApplyFailed(
                f"tailscaled stays in state {status.get('BackendState')}: {_health(status)}",
                hint="see `tailscale status`",
            )
        if status.get("TUN"):
            await_bindable(status["TailscaleIPs"], timeout_s=self.address_timeout_s)

    def verify(self, generation: Path, facts: Facts) -> None:
        """Running, addressed, seen by control, and every managed pref as the file says."""
        loaded = _load(generation)
        if loaded is None:
            return
        wanted, enrolment = loaded
        api = _api(facts)
        with _mapped(ApplyFailed):
            status = self._await(api, _is_online, self.online_timeout_s)
            prefs = api.prefs()
            peers = offered_exits(api.status()) if wanted["exit_node"] else ()
        if not _is_up(status):
            raise ApplyFailed(f"tailscaled is in state {status.get('BackendState')}: {_health(status)}")
        if not _is_online(status):
            control = describe_control(enrolment["login_server"])
            raise ApplyFailed(
                f"{control} does not see this host online: {_health(status)}",
                hint="is it reachable from here?",
            )
        withdrawn, direct = withdrawn_routes(facts.paths.state), stands_direct(facts.paths.state)
        if left := wants.differing(wanted, prefs, peers, withdrawn, _own_name(status), direct=direct):
            paths = ", ".join(sorted({wants.KEY_PATHS.get(name, name) for name in left}))
            raise ApplyFailed(f"tailscaled did not keep {paths}", hint="does something else set its prefs?")

    def warnings(self, generation: Path, facts: Facts) -> tuple[str, ...]:
        """Routes that wait for approval, tags that did not come with the key, a name already taken."""
        loaded = _load(generation)
        if loaded is None:
            return _what_stays(_api(facts), owned_services(_state(facts)))
        from tsstack.parts.tailscale.advice import remarks, unapproved_routes

        wanted, enrolment = loaded

        def approved(status: Json) -> bool:
            return not unapproved_routes(wanted, status.get("Self") or {})

        with _mapped(CheckFailed):
            status = self._await(_api(facts), approved, self.approval_timeout_s)
        return remarks(wanted, enrolment, status)

    def restore(self, snapshot: Snapshot, facts: Facts) -> None:
        """Put back the prefs that `observe` saw; a host that had not joined is logged out again.

        Needs no network. The record of a node that had joined stays on the control server, where an admin
        may delete it.
        """
        originals: Any = snapshot.get("originals")
        if not snapshot:
            return
        # Nothing was asked of it then: of one that is away, or had left the tailnet, the note alone went.
        if "away" in snapshot or not (snapshot["enrolled"] or snapshot.get("asked", True)):
            with _mapped(RollbackFailed):
                try:
                    if "away" in snapshot:
                        _return(facts)
                finally:
                    write_originals(_state(facts), originals)
            return
        api = _api(facts)
        before: Any = snapshot["prefs"]
        with _mapped(RollbackFailed):
            if not snapshot["enrolled"]:
                restore_stranger(api, before)
            elif not is_enrolled(api.prefs()):
                raise RollbackFailed(
                    "this host was on the tailnet before and is logged out now",
                    hint="join again: tsstack switch",
                )
            else:
                restore_prefs(api, before)
            served: Any = snapshot["services"]
            owned_before: Any = snapshot["owned_services"]
            state = _state(facts)
            owned = {*owned_services(state), *owned_before}
            if owned and snapshot["enrolled"]:
                set_services(api, state, served, owned=owned)
            write_originals(state, originals)

    def _align(self, api: LocalApi, wanted: Json, report: Report, state: Path) -> None:
        prefs, own_name = api.prefs(), _own_name(api.status(peers=False))
        peers: tuple[Json, ...] = ()
        if wanted["exit_node"] is not None:
            status = self._await(api, lambda s: has_candidate(wanted, s), 5.0, peers=True)
            peers = offered_exits(status)
            try:
                require_exit_node(wanted, prefs, peers)
            except CheckFailed as error:
                raise ApplyFailed(error.message, hint=error.hint) from None
        withdrawn, direct = withdrawn_routes(state), stands_direct(state)
        if patch := wants.differing(wanted, prefs, peers, withdrawn, own_name, direct=direct):
            report("setting " + ", ".join(sorted({wants.KEY_PATHS.get(name, name) for name in patch})))
            api.patch_prefs(patch)

    @staticmethod
    def _await(
        api: LocalApi, predicate: Callable[[Json], bool], timeout_s: float, *, peers: bool = False
    ) -> Json:
        """The status as soon as `predicate` holds, or as it is when the time is over.

        Looks again at each event of the daemon; the first comes at once.
        """
        status = api.status(peers=peers)
        if predicate(status):
            return status
        try:
            for _ in api.watch(timeout_s=timeout_s, mask=_WATCH):
                status = api.status(peers=peers)
                if predicate(status):
                    break
        except LocalApiTimeout:
            status = api.status(peers=peers)
        return status


# ipn/backend.go: state, health, and every change of a peer (NotifyPeerChanges, since 1.98; older daemons
# ignore the bit and send whole network maps instead).
_WATCH = 1 << 1 | 1 << 7 | 1 << 12

PART = TailscalePart()


def _is_up(status: Mapping[str, Any]) -> bool:
    return status.get("BackendState") == "Running" and bool(status.get("TailscaleIPs"))


def _is_online(status: Mapping[str, Any]) -> bool:
    return _is_up(status) and bool((status.get("Self") or {}).get("Online"))


def _own_name(status: Mapping[str, Any]) -> str:
    """The name that the node gives itself where no pref does: the machine's; empty where that is not sure.

    Status says what the server heard last, which for a moment is the name that a pref has given before, and
    tailscaled may live on a machine of another name (hostinfo.go takes the first label of os.Hostname).
    """
    machine = os.uname().nodename.partition(".")[0]
    return machine if (status.get("Self") or {}).get("HostName") == machine else ""


def _health(status: Mapping[str, Any]) -> str:
    return "; ".join(status.get("Health") or ()) or "tailscaled gives no reason"


def _blame(words: str) -> str:
    """The key of the file that check-prefs speaks of (ipn/ipnlocal/local.go: checkPrefsLocked)."""
    lowered = words.lower()
    if "exit node" in lowered:
        return "tailscale.exit_node"
    if "ssh" in lowered:
        return "tailscale.ssh"
    return "tailscale.advertise.routes" if "route" in lowered else "tailscale"


def _load(generation: Path) -> tuple[Json, Json] | None:
    """The two files of a generation; None when it does not speak of tailscale."""
    try:
        wanted = json.loads((generation / wants.PREFS_FILE).read_text())
        return wanted, json.loads((generation / wants.ENROLMENT_FILE).read_text())
    except FileNotFoundError:
        return None


def _patient_prefs(api: LocalApi, away_after_s: float) -> Json:
    """Raises LocalApiAway of one that does not come back within that time."""
    until_s = time.monotonic() + away_after_s
    while True:
        try:
            return api.prefs()
        except LocalApiAway:
            if time.monotonic() >= until_s:
                raise
        time.sleep(0.2)


def _what_stays(api: LocalApi, owned: Collection[str]) -> tuple[str, ...]:
    try:
        api.prefs()
    except LocalApiAway:
        services = f", and what it serves ({', '.join(owned)}; `tailscale serve status`)" if owned else ""
        return (
            "tailscaled does not run, and keeps the settings that it has: once it runs again, look at them "
            f"(`tailscale debug prefs`) and change them by hand (`tailscale set`){services}",
        )
    except LocalApiError:  # it is there, so it was told
        return ()
    return ()


def _return(facts: Facts) -> None:
    """Of one that came back in the midst of a change nobody saw the prefs: as the live file says.

    Needs no network, and so takes no exit node away: nobody may be known to offer it yet.
    """
    api, state = _api(facts), _state(facts)
    loaded = _load(facts.paths.current)
    try:
        prefs, status = api.prefs(), api.status()
    except LocalApiAway:
        return
    if loaded is None or not is_enrolled(prefs):
        return
    wanted, _ = loaded
    withdrawn, direct = withdrawn_routes(facts.paths.state), stands_direct(facts.paths.state)
    offered = offered_exits(status)
    patch = wants.differing(wanted, prefs, offered, withdrawn, _own_name(status), direct=direct)
    if wanted["exit_node"] is not None and not patch.get("ExitNodeID"):
        patch.pop("ExitNodeID", None)
    if patch:
        api.patch_prefs(patch)
    owned = owned_services(state)
    if wanted["services"] or owned:
        set_services(api, state, wanted["services"], owned=owned)


def _leave(api: LocalApi, state: Path, report: Report, *, away_after_s: float) -> None:
    """Take back all that tsstack made of tailscaled, but for the membership itself."""
    with _mapped(ApplyFailed):
        owned, originals = owned_services(state), read_originals(state)
        try:
            prefs = _patient_prefs(api, away_after_s)
        except LocalApiAway:  # noted for later, it would take away what somebody sets by hand till then
            report("tailscaled does not run: its settings stay as they are")
            write_originals(state, None)
            return
        if owned:
            set_services(api, state, {}, owned=owned)
        if originals is None:
            return
        if is_enrolled(prefs):
            report("tailscale: its settings from before tsstack come back; the host stays on the tailnet")
            restore_prefs(api, originals, originals)
        write_originals(state, None)


def _api(facts: Facts) -> LocalApi:
    return LocalApi(facts.paths.tailscale_socket)


def _state(facts: Facts) -> Path:
    return facts.paths.state / "tailscale"


@contextmanager
def _mapped(target: type[TsstackError]) -> Iterator[None]:
    """A refusal of the LocalAPI, or of the disk, becomes the error of the moment."""
    try:
        yield
    except LocalApiError as error:
        raise target(error.message, hint=error.hint) from error
    except OSError as error:
        raise target(f"what tsstack notes of tailscaled cannot be written: {error}") from error


def _parse_version(text: str) -> tuple[int, int, int]:
    """`1.102.3-ERR-BuildInfo` and `1.102.3-t1234` are 1.102.3."""
    numbers = [int(word) for word in text.partition("-")[0].split(".") if word.isdigit()]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


def _own_port(endpoints: Any) -> int:
    """The UDP port of magicsock: the one that most of its endpoints share."""
    ports = Counter(int(str(endpoint).rpartition(":")[2]) for endpoint in endpoints)
    if not ports or _DEFAULT_PORT in ports:
        return _DEFAULT_PORT
    return ports.most_common(1)[0][0]
