"""Asks each engine for its version and the kernel for what the file needs of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.doctor.engines import EngineFacts
from tsstack.errors import CheckFailed, CommandFailed
from tsstack.parts.firewall.library import NftError, Session
from tsstack.system.command import run, which

if TYPE_CHECKING:
    from tsstack.doctor.needs import Needs
    from tsstack.model.facts import Facts

_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_TUN = Path("/dev/net/tun")
# A throwaway network namespace takes the trial: nothing of this host is touched (unshare(1)).
_BUCKET = ("unshare", "--net", "--", "tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1mbit",
           "burst", "32kbit", "latency", "400ms")  # fmt: skip


def look_at_engines(needs: Needs, facts: Facts) -> EngineFacts:
    """Blocks for some hundredths of a second. What only root may ask stays unknown to others."""
    from tsstack.parts.tailscale.desired import is_hosted

    root = os.geteuid() == 0
    nft_fault, netfilter_fault = _look_at_netfilter(root)
    tailscale = facts.tailscale
    return EngineFacts(
        needs=needs,
        nginx=facts.nginx,
        tailscaled=tailscale.version if tailscale else None,
        tailscaled_installed=tailscale is not None
        or facts.paths.tailscale_socket.exists()
        or which("tailscaled") is not None,
        hosted=tailscale is not None and is_hosted(tailscale.control_url),
        nft=_nft_version(),
        nft_fault=nft_fault,
        kernel=facts.kernel,
        sops=which("sops") is not None,
        tc=which("tc") is not None,
        netfilter_fault=netfilter_fault,
        tun_fault=_try_tun() if root and needs.tailnet else None,
        egress_fault=_try_bucket() if root and needs.egress else None,
        ingress_fault=_try_ingress() if root and needs.ingress else None,
        congestion=_congestion(needs.congestion),
    )


def _look_at_netfilter(root: bool) -> tuple[str, str | None]:
    """Why libnftables cannot be used, and why the kernel's nf_tables cannot (None: not asked)."""
    try:
        session = Session()
    except NftError as error:
        return error.message, None
    if not root:
        return "", None
    try:
        session.query("list tables")
    except NftError as error:
        return "", f"this kernel does not take nft's questions: {error.message}"
    return "", ""


def _nft_version() -> str:
    try:
        said = run(["nft", "--version"], timeout_s=5, check=False).stdout
    except CommandFailed:
        return ""
    found = re.search(r"v(\d+(?:\.\d+)+)", said)
    return found[1] if found else ""


def _try_tun() -> str:
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_TUN} cannot be opened: {error.strerror}"
    return ""


def _try_bucket() -> str:
    try:
        run(_BUCKET, timeout_s=10)
    except CommandFailed as error:
        return f"this kernel has no token bucket, which `bandwidth` needs: {error.message}"
    return ""


def _try_ingress() -> str:
    from tsstack.parts.kernel.links import check_ingress

    try:
        check_ingress()
    except CheckFailed as error:
        return error.message
    return ""


def _congestion(wanted: str) -> tuple[str, ...]:
    try:
        available = tuple(_AVAILABLE.read_text(encoding="ascii").split())
    except OSError:
        return ()
    if not wanted or wanted in available or which("modprobe") is None:
        return available
    try:  # modprobe(8): -n does everything but load it
        loadable = run(["modprobe", "-n", "-q", f"tcp_{wanted}"], timeout_s=10, check=False).returncode == 0
    except CommandFailed:
        return available
    return (*available, wanted) if loadable else available
