"""The process that keeps a node alive: it holds its namespaces, has made its files, runs its servers.

Started by the lab as `unshare --net --mount --uts ... python -m tsstack.lab.holder TOKEN NODE`. When
it and everything else inside is gone, so are the node's interfaces, mounts, rules and files: the kernel
takes them down with the namespaces (namespaces(7)). Nothing of a node exists outside.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

from tsstack.lab.servers import serve
from tsstack.lab.topology import (
    HEADSCALE_ADDRESS,
    WORLD_ADDRESS,
    WORLD_ADDRESS6,
    Node,
    loopback_addresses,
)
from tsstack.system import command

MARK = Path("/run/tsstack-lab.token")
"""Inside a node: the token of the lab it belongs to. Its sight is what makes a process the lab's own."""

READY = Path("/run/tsstack-lab.ready")
"""Inside a node: there when everything is made."""

_LAYERS = Path("/run/tsstack-lab.layers")
# Parameters that the kernel shows read-only, or not per namespace, in any network namespace but the
# first. Each gets a stand-in, a plain file: the node may set it as a host may, without effect.
_STAND_INS = (
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/core/rmem_default",
    "net/core/wmem_default",
    "net/core/optmem_max",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_buckets",
)


def main(token: str, node: Node) -> None:
    """Make the node's own files, start its servers, say so in `READY`, and stay."""
    socket.sethostname(node.name)
    make_files(node, token)
    set_parameters(node)
    # Servers bind world's addresses, so those come before them; all other links come later.
    command.run(["ip", "-batch", "-"], stdin=loopback_addresses(node))
    for server in node.servers:
        serve(server, node.name)
    READY.touch()
    while True:
        signal.pause()


def make_files(node: Node, token: str) -> None:
    """Private /run, /etc, /var/lib, /var/log and a /sys that shows the node's own interfaces.

    /etc and /var/lib are the machine's with a layer above (overlayfs), so engines find their files and
    every write stays in the node. Raises CommandFailed when the kernel refuses a mount.
    """
    _forget_other_namespaces()
    _mount("tmpfs", "/run", kind="tmpfs", options="mode=0755")
    MARK.write_text(token)
    for path in ("/etc", "/var/lib"):
        upper, work = (_LAYERS / f"{path.strip('/').replace('/', '-')}-{end}" for end in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir()
        _mount("overlay", path, kind="overlay", options=f"lowerdir={path},upperdir={upper},workdir={work}")
    _mount("tmpfs", "/var/log", kind="tmpfs", options="mode=0755")
    _mount("sysfs", "/sys", kind="sysfs")
    if os.path.realpath("/var/run") != "/run":
        _mount("/run", "/var/run", bind=True)
    _hide_machine()
    for folder in ("/var/lib/tailscale", "/var/lib/tsstack", "/var/log/nginx", "/run/tailscale", "/run/lock"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    Path("/etc/hostname").write_text(f"{node.name}\n")
    Path("/etc/hosts").write_text(
        f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {node.name}\n"
        f"{WORLD_ADDRESS} world.test\n{WORLD_ADDRESS6} world.test\n{HEADSCALE_ADDRESS} headscale.test\n"
    )
    resolv = Path("/etc/resolv.conf")
    # Where systemd-resolved runs this is a link into the machine's /run.
    resolv.unlink(missing_ok=True)
    resolv.write_text(f"nameserver {WORLD_ADDRESS}\n")


def _forget_other_namespaces() -> None:
    """Drop our copies of `ip netns` mounts, lest we keep namespaces alive that others delete."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        if tail.split()[0] == "nsfs":
            command.run(["umount", "--lazy", fields.split()[4]], check=False)


def _hide_machine() -> None:
    """What tsstack and the tailnet daemons made of the machine itself is none of the node's business."""
    for path in ("/etc/tsstack", "/etc/headscale", "/var/lib/tsstack", "/var/lib/tailscale"):
        shutil.rmtree(path, ignore_errors=True)
    for folder, _, names in os.walk("/etc"):
        for name in names:
            link = Path(folder, name)
            if link.is_symlink() and str(link.readlink()).startswith("/var/lib/tsstack/"):
                link.unlink()


def set_parameters(node: Node) -> None:
    """Network parameters as on a fresh host; forwarding only where the node is a router."""
    forward = "1" if node.router else "0"
    values = {
        "net/ipv4/ip_forward": forward,
        "net/ipv6/conf/all/forwarding": forward,
        "net/ipv6/conf/all/disable_ipv6": "0",
        "net/ipv6/conf/default/disable_ipv6": "0",
        # The world sees packets come in by one link and answers by another: no source check there.
        "net/ipv4/conf/all/rp_filter": "0" if node.name == "world" else "2",
        "net/ipv4/conf/default/rp_filter": "0" if node.name == "world" else "2",
        "net/ipv6/conf/all/keep_addr_on_down": "1",
        "net/ipv4/ping_group_range": "0 2147483647",
    }
    for name, value in values.items():
        Path("/proc/sys", name).write_text(value)
    for name in _STAND_INS:
        parameter = Path("/proc/sys", name)
        if parameter.exists():
            stand_in = _LAYERS / name.replace("/", ".")
            stand_in.write_text(parameter.read_text())
            _mount(str(stand_in), str(parameter), bind=True)


def _mount(source: str, target: str, *, kind: str = "", options: str = "", bind: bool = False) -> None:
    words = ["mount", *(["--bind"] if bind else ["-t", kind]), *(["-o", options] if options else [])]
    command.run([*words, source, target])


if __name__ == "__main__":
    main(sys.argv[1], Node.from_json(sys.argv[2]))
