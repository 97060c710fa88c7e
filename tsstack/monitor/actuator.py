"""What was decided, carried out: prefs set, flows freed, the egress proven. One action after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from tsstack.monitor.choice import DIRECT, Action, Block, FreeFlows, GoDirect, Proof, ProveEgress, UseExit
from tsstack.monitor.freeing import FLOWS_SOCKET, free_flows
from tsstack.monitor.probes.notices import is_ours
from tsstack.monitor.probes.probe import Probe
from tsstack.monitor.probes.prober import Prober
from tsstack.monitor.probes.stamps import boot_s
from tsstack.monitor.tailscaled import Tailscaled
from tsstack.monitor.troubles import Troubles
from tsstack.system.localapi import LocalApiError

WRITING, FREEING = "tailscaled-write", "conntrack"
_ENABLE = "systemctl enable --now tsstack-flows.socket"
_LOOK = "journalctl -u 'tsstack-flows@*'"
_REFUSED = 403
_PAUSE_S = 0.2
_EARLY_S = 0.3  # a proof that fails says why before its time is over
_OVERSLEPT_S = 1.0  # a proof that ends so late was stopped or slept through: nothing had its time
_ASK_AGAIN_S = 30.0


class Actuator:
    """Carries actions out in their order, in a task of its own. Belongs to the running event loop."""

    def __init__(
        self,
        tailscaled: Tailscaled,
        prober: Prober,
        troubles: Troubles,
        *,
        proven: Callable[[Proof], None],
        targets: Callable[[str], tuple[Probe, ...]],
        uplink: Callable[[], str],
        flows: Path = FLOWS_SOCKET,
    ) -> None:
        """`proven` gets each proof; `targets` gives the probes that show whether a node's egress works.

        `flows` is the socket of who frees connections where this process may not.
        """
        self._flows = flows
        self._tailscaled = tailscaled
        self._prober = prober
        self._troubles = troubles
        self._proven = proven
        self._targets = targets
        self._uplink = uplink
        self._waiting: asyncio.Queue[Action] = asyncio.Queue()
        self._worker = asyncio.get_running_loop().create_task(self._work())
        self._proof: asyncio.Task[None] | None = None
        self._freeing: set[asyncio.Task[None]] = set()
        self._one_frees = asyncio.Lock()
        self._to_free: set[str] = set()
        self._left = True
        """Whether the latest change of the way out was made: only then are connections freed."""
        self._refused_s: float | None = None
        self._trial: asyncio.Task[bool] | None = None

    def do(self, actions: Iterable[Action]) -> None:
        """Carry these out, after those before."""
        for action in actions:
            self._waiting.put_nowait(action)

    @property
    def read_only(self) -> bool:
        """Whether tailscaled refuses to be changed by us."""
        return self._refused_s is not None

    def look_again(self, now_s: float) -> None:
        """Whether it still refuses, asked now and then by a change of nothing: that may be mended."""
        if self._refused_s is not None and now_s - self._refused_s >= _ASK_AGAIN_S:
            self._refused_s = now_s
            self._trial = asyncio.get_running_loop().create_task(self._patch({}))

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be done, no proof included."""
        proves = self._proof is not None and not self._proof.done()
        return self._waiting.empty() and not proves and not self._freeing

    async def set_routes(self, routes: Iterable[str]) -> bool:
        """Set the advertised routes; whether that went."""
        return await self._patch({"AdvertiseRoutes": sorted(routes)})

    def close(self) -> None:
        """Do nothing more; prefs stay as they are."""
        self._worker.cancel()
        for task in (*self._freeing, self._proof, self._trial):
            if task is not None:
                task.cancel()

    @property
    def worker(self) -> asyncio.Task[None]:
        """The task, for whoever must know that it has failed."""
        return self._worker

    async def _work(self) -> None:
        while True:
            await self._do(await self._waiting.get())

    async def _do(self, action: Action) -> None:
        match action:
            case UseExit(node, _):
                self._left = await self._use(node)
            case GoDirect():
                self._left = await self._patch({"ExitNodeID": ""})
            case Block(node):
                # What is set stays set: tailscaled's routes then lead nowhere but into the tunnel.
                if self._tailscaled.seen.actual == DIRECT:
                    await self._use(node)
            case FreeFlows(left):
                if self._left:  # beside what follows: a slow machine takes seconds to start what frees them
                    task = asyncio.get_running_loop().create_task(self._free(left))
                    self._freeing.add(task)
                    task.add_done_callback(self._freeing.discard)
            case ProveEgress():
                if self._proof is not None:
                    self._proof.cancel()
                self._proof = asyncio.get_running_loop().create_task(self._prove(action))

    async def _use(self, node: str) -> bool:
        stable = self._tailscaled.seen.id_of(node)
        if stable is None:
            words = f"the exit node {node} cannot be set: tailscaled knows no such node"
            self._troubles.begin(WRITING, words, "tailscale exit-node list")
        return stable is not None and await self._patch({"ExitNodeID": stable})

    async def _patch(self, changes: dict[str, object]) -> bool:
        try:
            await self._tailscaled.patch(changes)
        except LocalApiError as error:
            self._refused_s = boot_s() if error.status == _REFUSED else None
            if error.status:
                self._troubles.begin(WRITING, error.message, error.hint)
            return False
        self._refused_s = None
        self._troubles.end(WRITING)
        return True

    async def _free(self, left: str) -> None:
        if left in self._to_free:  # one that has not begun serves this one, too
            return
        self._to_free.add(left)
        async with self._one_frees:
            self._to_free.discard(left)
            if self._tailscaled.seen.actual != left:  # else the host has gone back to it meanwhile
                await self._free_now(left)

    async def _free_now(self, left: str) -> None:
        try:
            await free_flows(left, self._tailscaled.seen, self._uplink(), self._flows)
        except OSError as error:
            message = f"connections of the way that was left cannot be freed: {error.strerror or error}"
            self._troubles.begin(FREEING, message, _LOOK if self._flows.exists() else _ENABLE)
        else:
            self._troubles.end(FREEING)

    async def _prove(self, asked: ProveEgress) -> None:
        """New connections to every target at once, again and again until one answers."""
        errors: dict[str, str] = {}
        until_s = asked.by_s - _EARLY_S
        probes = self._targets(asked.node)
        begun = False
        while (left_s := until_s - boot_s()) > 0:
            if self._tailscaled.seen.actual != asked.node:
                await asyncio.sleep(min(0.02, left_s))
                continue
            begun = True
            if await self._any_answers(probes, errors, left_s):
                self._proven(Proof(asked.move, ok=True))
                return
            await asyncio.sleep(min(_PAUSE_S, max(until_s - boot_s(), 0)))
        said = "; ".join(f"{key}: {error}" for key, error in errors.items()) or "no target was asked in time"
        overslept = boot_s() - until_s > _OVERSLEPT_S
        unknown = not begun or overslept or (bool(errors) and all(map(is_ours, errors.values())))
        self._proven(Proof(asked.move, ok=False, detail=said, unknown=unknown))

    async def _any_answers(self, probes: tuple[Probe, ...], errors: dict[str, str], limit_s: float) -> bool:
        asking = {asyncio.ensure_future(self._prober.ask(probe)): probe for probe in probes}
        try:
            for done in asyncio.as_completed(asking, timeout=limit_s):
                sample = await done
                if sample.ok:
                    return True
                errors[sample.path.partition(":")[2]] = sample.error
        except TimeoutError:
            pass
        finally:
            for each in asking:
                each.cancel()
        return False
