"""The steps of bringing a lab up, in their order. What can be done side by side is."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tsstack.errors import TsstackError
from tsstack.lab import headscale, processes, topology
from tsstack.lab.holder import READY
from tsstack.lab.machine import AGE_KEY, Machine
from tsstack.lab.record import Folder, Record
from tsstack.lab.topology import HEADSCALE_URL, Node, Topology
from tsstack.system import command

SECRETS = "/etc/tsstack/secrets.yaml"
_HOLDER_LIMIT_S = 30.0
_ENROL_LIMIT_S = 60.0
_IPN_RUNNING = "Running"


def machine(folder: Folder, record: Record, plan: Node) -> Machine:
    """The node `plan` of a lab whose holders run."""
    return Machine(plan, record.pids[plan.name], record.token, record.programs, folder.log(plan.name))


def bring_up(folder: Folder, record: Record, report: Callable[[str], None]) -> Record:
    """From an empty record to a tailnet that works. Raises TsstackError; the caller then clears."""
    start_s = time.monotonic()
    plan = topology.build(record.clients)
    report(f"{len(plan.nodes)} nodes")
    record = _start_holders(folder, record, plan)
    nodes = {name: machine(folder, record, node) for name, node in plan.nodes.items()}
    _wire(plan, nodes)
    report("Headscale and tailscaled")
    with ThreadPoolExecutor(4) as pool:
        keys = pool.submit(_start_headscale, plan, nodes["hs"])
        daemons = [
            pool.submit(node.start_daemon) for node in nodes.values() if node.plan.daemon == "tailscaled"
        ]
        joining = [node for node in nodes.values() if node.plan.joins]
        key_of = keys.result()
        for daemon in daemons:
            daemon.result()
        sealed = pool.submit(_seal_secrets, nodes["kernelcore"], key_of["kernelcore"])
        report(f"enrolling {', '.join(node.name for node in joining)}")
        # They register one after the other, so that the same lab always has the same addresses.
        for node in joining:
            _begin_login(node, key_of[node.name])
            _await(node, lambda status: status.get("HaveNodeKey"))
        _wait_all(pool, [partial(_await_running, node) for node in joining])
        sealed.result()
    record = folder.update(phase="up")
    report(f"up after {time.monotonic() - start_s:.1f} s")
    return record


def _wait_all(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], None]]) -> None:
    for task in [pool.submit(task) for task in tasks]:
        task.result()


def _start_holders(folder: Folder, record: Record, plan: Topology) -> Record:
    pids: dict[str, int] = {}
    for node in plan.nodes.values():
        # As a slave a node lets go of what the machine unmounts, and none of its mounts gets out.
        words = ["unshare", "--net", "--mount", "--uts", "--propagation=slave", "--"]
        words += [sys.executable, "-P", "-m", "tsstack.lab.holder", record.token, node.as_json()]
        pids[node.name] = command.start(words, log=folder.log(node.name))
    record = folder.update(pids=pids)
    deadline = time.monotonic() + _HOLDER_LIMIT_S
    waiting = dict(pids)
    while waiting:
        for name, pid in list(waiting.items()):
            if Path(f"/proc/{pid}/root{READY}").exists():
                del waiting[name]
            elif not processes.start_ticks(pid) or time.monotonic() > deadline:
                log = folder.log(name).read_text(errors="replace").strip().splitlines()
                raise TsstackError(
                    f"the node {name} could not be made: {log[-1] if log else 'no message'}",
                    hint="the lab needs network, mount and UTS namespaces, overlayfs and tmpfs",
                )
        time.sleep(0.005)
    return record


def _wire(plan: Topology, nodes: dict[str, Machine]) -> None:
    pids = {name: node.pid for name, node in nodes.items()}
    nodes["world"].configure_links(topology.world_links(plan, pids))
    nodes["kernelcore"].configure_links(topology.kernelcore_links(pids))
    with ThreadPoolExecutor(4) as pool:
        others = [node for node in nodes.values() if node.name != "world"]
        _wait_all(
            pool, [partial(node.configure_links, topology.node_addresses(node.plan)) for node in others]
        )


def _start_headscale(plan: Topology, node: Machine) -> dict[str, str]:
    """Start it and return an auth key for each node that has a tailscaled."""
    node.write(headscale.CONFIG, headscale.config())
    node.write(headscale.POLICY, headscale.policy(plan))
    node.write(headscale.RECORDS, "[]\n")
    node.start_daemon()
    server_key = create_key(node, "", ("tag:server",))
    users = headscale.users_of(plan)
    keys = {name: server_key for name, other in plan.nodes.items() if other.daemon == "tailscaled"}
    return keys | {name: create_key(node, name, ()) for name in users}


def create_key(node: Machine, user: str, tags: Sequence[str]) -> str:
    """A reusable preauth key, good for a day: for `tags`, or for `user`, who is made if need be."""
    words = [node.programs["headscale"], "-c", headscale.CONFIG, "-o", "json"]
    make = ["preauthkeys", "create", "--reusable", "--expiration", "24h"]
    if tags:
        make += ["--tags", ",".join(tags)]
    else:
        known = json.loads(node.run([*words, "users", "list"]).stdout or "null") or []
        ids = [entry["id"] for entry in known if entry["name"] == user]
        if not ids:
            ids = [json.loads(node.run([*words, "users", "create", user]).stdout)["id"]]
        make += ["--user", str(ids[0])]
    return str(json.loads(node.run([*words, *make]).stdout)["key"])


def _seal_secrets(node: Machine, auth_key: str) -> None:
    """Give the node an age identity and a sops file with its auth key, as an operator would have made it.

    The key travels on stdin only.
    """
    identity = command.run([node.programs["age-keygen"]]).stdout
    recipient = command.run([node.programs["age-keygen"], "-y"], stdin=identity).stdout.strip()
    words = [node.programs["sops"], "encrypt", "--age", recipient, "--input-type", "json"]
    words += ["--output-type", "yaml", "--filename-override", "secrets.yaml", "/dev/stdin"]
    sealed = command.run(
        words,
        stdin=json.dumps({"authkey": auth_key}),
        env={"SOPS_DISABLE_VERSION_CHECK": "1"},
    ).stdout
    node.write(AGE_KEY, identity, mode=0o600)
    node.write(SECRETS, sealed, mode=0o600)


def _begin_login(node: Machine, auth_key: str) -> None:
    prefs = node.api.prefs()
    prefs |= {
        "WantRunning": True,
        "LoggedOut": False,
        "ControlURL": HEADSCALE_URL,
        "Hostname": node.name,
        "RouteAll": not node.plan.exit_node,
        "AdvertiseRoutes": ["0.0.0.0/0", "::/0"] if node.plan.exit_node else [],
    }
    node.api.start(auth_key, prefs)
    node.api.login_interactive()


def _await_running(node: Machine) -> None:
    _await(node, lambda status: status.get("BackendState") == _IPN_RUNNING and status.get("TailscaleIPs"))


def _await(node: Machine, done: Callable[[dict[str, object]], object]) -> None:
    deadline = time.monotonic() + _ENROL_LIMIT_S
    while not done(status := node.api.status(peers=False)):
        if time.monotonic() > deadline:
            raise TsstackError(
                f"{node.name} did not join the tailnet: {status.get('BackendState')}, {status.get('Health')}"
            )
        time.sleep(0.02)
