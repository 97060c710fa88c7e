"""tailscaled as the monitor sees it: which exit node its prefs name, who offers an exit, whether it answers.

Its bus tells every change, so nothing is polled while it can be heard. All requests run in a thread of their
own with a time limit: a daemon that hangs stalls nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from tsstack.monitor.choice import DIRECT
from tsstack.monitor.probes.stamps import boot_s
from tsstack.parts.tailscale.exit_nodes import offered_exits
from tsstack.system.localapi import (
    STATES,
    WATCH_HEALTH,
    WATCH_PREFS,
    WATCH_STATE,
    LocalApi,
    LocalApiError,
    LocalApiTimeout,
)

T = TypeVar("T")

# ipn/backend.go, NotifyPeerChanges (since 1.98); older daemons ignore it and send whole network maps.
_WATCH_PEERS = 1 << 12
_MASK = WATCH_STATE | WATCH_PREFS | WATCH_HEALTH | _WATCH_PEERS
_OF_PEERS = ("NetMap", "PeersChanged", "PeersRemoved", "PeerChangedPatch", "SelfChange")
_JOIN = {
    "Stopped": "tailscale up",
    "NeedsLogin": "tsstack switch",
    "NeedsMachineAuth": "approve this device on the control server",
}
_START, _RESTART = "systemctl start tailscaled", "systemctl restart tailscaled"
_HANGS = "did not answer"
_LISTEN_S = 86400.0
_AGAIN_S = 0.5
_REQUEST_S = 3.0
_HUNG_S = 1.0
"""An answer that took so long shows that it hung meanwhile."""
_PEERS_APART_S = 1.0
"""The peers are read at most so often, however often they change."""
_AT_FIRST_S = 0.05  # and so often while nothing is decided for want of them


@dataclass(frozen=True, slots=True)
class Seen:
    """tailscaled at one moment."""

    actual: str | None = None
    """The exit node in its prefs by name (its id where no name is known); DIRECT: none; None: no answer."""
    state: str = ""
    """Its BackendState, empty before it has answered."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """Names to stable ids, of all that offer an exit or once did."""
    offered: frozenset[str] = frozenset()
    """The names that offer an exit now."""
    addresses: tuple[str, ...] = ()
    """This node's own."""
    peer_routes: tuple[str, ...] = ()
    """The networks that other nodes route for."""
    advertised: tuple[str, ...] | None = None
    """The routes in its prefs; None before they were read."""
    told_s: float | None = None
    """Since when it runs and has told its peers (CLOCK_BOOTTIME); None: it has not, so nobody is known.

    0: since before it was first asked."""
    error: str = ""
    """Why it does not answer."""
    hint: str = ""
    """What ends that."""

    def id_of(self, name: str) -> str | None:
        """The stable id of a node, by its name in any spelling."""
        return self.ids.get(name.lower())

    def offers(self, name: str) -> bool:
        """Whether this node offers an exit now."""
        return name.lower() in self.offered


class Tailscaled:
    """One tailscaled. Belongs to the running event loop; `changed` is called in its thread."""

    def __init__(self, api: LocalApi, changed: Callable[[Seen], None], *, names: tuple[str, ...]) -> None:
        self.seen = Seen()
        self.answered_s = float("-inf")
        """When the latest question that was answered was asked (CLOCK_BOOTTIME)."""
        self._api = api
        self._changed = changed
        self._names = {name.lower(): name for name in names}
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="localapi")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="localapi-write")
        self._prefs: Mapping[str, Any] | None = None
        self._life = 0
        """Counts how often it was silent or down: what was asked before is not of the one that runs now."""
        self._peers_due: asyncio.TimerHandle | None = None
        self._peers_at_s = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        threading.Thread(target=self._listen, name="ipn-bus", daemon=True).start()

    def know(self, names: tuple[str, ...]) -> None:
        """The names that the file uses, as it spells them."""
        self._names = {name.lower(): name for name in names}
        self._tell()

    async def patch(self, changes: Mapping[str, Any]) -> None:
        """Set prefs, in the order of the calls. Raises LocalApiError; then it counts as silent if it hung."""
        try:
            prefs = await self._run(self._writer, lambda: self._timed().patch_prefs(changes))
        except LocalApiError as error:
            if isinstance(error, LocalApiTimeout) or not error.status:
                self._silent(error.message)
            raise
        self._take_prefs(prefs)

    async def read_prefs(self) -> Mapping[str, Any]:
        """All prefs as they are now. Raises LocalApiError."""
        return await self._run(self._readers, self._timed().prefs)

    def doubt(self) -> None:
        """It may hang: ask it something small, and take it for silent until it answers."""
        if not self._closed and (self._asking is None or self._asking.done()):
            self._asking = self._spawn(self._ask_until_it_answers())

    def close(self) -> None:
        """Ask no more. Requests under way end by their own limits, or with the process."""
        self._closed = True
        if self._peers_due is not None:
            self._peers_due.cancel()
        for task in list(self._tasks):
            task.cancel()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def _timed(self) -> LocalApi:
        return LocalApi(self._api.path, timeout_s=_REQUEST_S)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(pool, work)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # The bus, in a thread of its own.

    def _listen(self) -> None:
        while not self._closed:
            try:
                for message in self._api.watch(timeout_s=_LISTEN_S, mask=_MASK):
                    self._hand_over(self._hear, message)
            except LocalApiTimeout as error:
                if "nothing happened" not in error.message:
                    self._hand_over(self._silent, error.message)
            except LocalApiError as error:
                self._hand_over(self._silent, error.message)
            threading.Event().wait(_AGAIN_S)

    def _hand_over(self, call: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(call, value)

    # What was heard, in the loop's thread.

    def _hear(self, message: Mapping[str, Any]) -> None:
        if self._closed:
            return
        state = message.get("State")
        if isinstance(state, int) and 0 <= state < len(STATES):
            before, self.seen = self.seen, replace(self.seen, state=STATES[state])
            if before.state != self.seen.state:
                self._life += self.seen.state != "Running"
                self.seen = replace(self.seen, told_s=None)
                self._read_peers_soon()
        if isinstance(message.get("Prefs"), dict):
            self._take_prefs(message["Prefs"])
        if any(message.get(name) for name in _OF_PEERS):
            self._read_peers_soon()
        self._tell()

    def _take_prefs(self, prefs: Mapping[str, Any]) -> None:
        self._prefs = prefs
        self._tell()

    def _read_peers_soon(self) -> None:
        if self._peers_due is None and not self._closed:
            apart_s = _PEERS_APART_S if self.seen.told_s is not None else _AT_FIRST_S
            wait_s = max(0.0, self._peers_at_s + apart_s - self._loop.time())
            self._peers_due = self._loop.call_later(wait_s, self._read_peers)

    def _read_peers(self) -> None:
        self._peers_due = None
        self._peers_at_s = self._loop.time()
        self._spawn(self._load_peers())

    async def _load_peers(self) -> None:
        life = self._life
        try:
            status = await self._run(self._readers, self._timed().status)
        except LocalApiError as error:
            self._silent(error.message)
            return
        if life != self._life:  # of a daemon that has ended meanwhile, perhaps
            self._read_peers_soon()
            return
        state = str(status.get("BackendState", ""))
        told_s = None
        if state == "Running":
            now_s = boot_s() if self._life else 0.0
            told_s = now_s if self.seen.told_s is None else self.seen.told_s
        offering = offered_exits(status)
        ids = {**self.seen.ids, **{str(each["name"]): str(each["id"]) for each in offering}}
        self.seen = replace(
            self.seen,
            state=state,
            told_s=told_s,
            ids=ids,
            offered=frozenset(str(each["name"]) for each in offering),
            addresses=tuple(str(each) for each in status.get("TailscaleIPs") or ()),
            peer_routes=tuple(
                str(route)
                for peer in (status.get("Peer") or {}).values()
                for route in peer.get("PrimaryRoutes") or ()
            ),
        )
        self._tell()

    def _silent(self, error: str) -> None:
        if self._closed:
            return
        self._prefs = None
        self._life += 1
        self.seen = replace(self.seen, error=error, state="", told_s=None)  # it may be another one next
        self._tell()
        self.doubt()

    async def _ask_until_it_answers(self) -> None:
        while True:
            asked_s = boot_s()
            try:
                prefs = await self._run(self._readers, self._timed().prefs)
            except LocalApiError as error:
                self._fell_silent(error.message)
                await asyncio.sleep(_AGAIN_S)
                continue
            took_s = boot_s() - asked_s
            if took_s > _HUNG_S:
                self._fell_silent(f"tailscaled did not answer for {took_s:.1f} s")
            self.answered_s = asked_s
            if self.seen.error or self._prefs is None:
                self.seen = replace(self.seen, error="")
                self._read_peers_soon()
            self._take_prefs(prefs)
            return

    def _fell_silent(self, error: str) -> None:
        if self._prefs is not None or not self.seen.error:
            self._prefs = None
            self.seen = replace(self.seen, error=error)
            self._tell()

    def _tell(self) -> None:
        """Put together what is known, and say so if it is new."""
        prefs = self._prefs
        running = self.seen.state in {"", "Running"}
        told = self.seen.told_s is not None
        actual = self._named(prefs) if prefs is not None and running and told else None
        advertised = self.seen.advertised
        if prefs is not None:
            advertised = tuple(str(each) for each in prefs.get("AdvertiseRoutes") or ())
        error = (
            self.seen.error
            if prefs is None
            else ""
            if running
            else f"tailscaled is in the state {self.seen.state}"
        )
        hint = (
            _JOIN.get(self.seen.state, "") if prefs is not None else _RESTART if _HANGS in error else _START
        )
        self.seen = replace(self.seen, actual=actual, advertised=advertised, error=error, hint=hint)
        self._changed(self.seen)

    def _named(self, prefs: Mapping[str, Any]) -> str:
        """The exit node of some prefs by the name that the file uses for it."""
        if automatic := prefs.get("AutoExitNode"):
            return f"auto:{automatic}"  # tailscaled moves by itself: that is none of ours
        stable = str(prefs.get("ExitNodeID") or "")
        if not stable:
            return str(prefs.get("ExitNodeIP") or DIRECT)
        found = [name for name, each in self.seen.ids.items() if each == stable]
        used = [name for name in found if name in self._names]
        return self._names[used[0]] if used else found[0] if found else stable
