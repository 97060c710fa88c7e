"""Would the kernel take a parameter's value? Tried in a network namespace of its own, where nothing is hurt.

Most of `net.*` exists once for each network namespace, so a new one judges as the host's would. What belongs
to the whole machine is read-only there, or absent, and is not judged.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from tsstack.errors import ApplyFailed, CheckFailed, CommandFailed
from tsstack.parts.kernel.desired import normalised
from tsstack.parts.kernel.sysctl import Sysctls
from tsstack.system.command import run, which
from tsstack.system.namespaces import Offshoot

CONGESTION_CONTROL = "net.ipv4.tcp_congestion_control"
_AVAILABLE = "net.ipv4.tcp_available_congestion_control"
# Groups of parameters by interface, net.FAMILY.GROUP.INTERFACE.KEY, and who judges for all of them. A new
# namespace has no neigh.default (net/core/neighbour.c: neigh_sysctl_register), and of interfaces `lo` alone.
_BY_INTERFACE = {"conf": "default", "neigh": "lo"}
_WRONG_VALUE = {errno.EINVAL, errno.ERANGE}


def try_values(wanted: Mapping[str, str]) -> dict[str, str]:
    """Why the kernel would not take a value, by parameter; those that it takes or cannot judge are absent.

    Changes nothing of this host.
    """
    refused = {}
    goals = {name: value for name, value in wanted.items() if name.startswith("net.")}
    control = goals.pop(CONGESTION_CONTROL, "")  # not tried: that would load the module
    if control and (reason := _why_no_congestion_control(control)):
        refused[CONGESTION_CONTROL] = reason
    return refused | (_ask_offshoot(goals) if goals else {})


def _ask_offshoot(goals: Mapping[str, str]) -> dict[str, str]:
    try:
        offshoot = Offshoot(_serve)
    except OSError:
        return {}  # no process to be had: the switch itself will tell
    try:
        offshoot.input.write(json.dumps(dict(goals)).encode() + b"\n")
        offshoot.input.flush()
        answer = offshoot.output.readline()
        return dict(json.loads(answer)) if answer else {}  # no answer: this kernel gives us no namespace
    except BrokenPipeError:
        return {}
    finally:
        offshoot.close()


def _serve(questions: BinaryIO, answers: BinaryIO) -> None:
    goals = json.loads(questions.readline())
    refused = {name: reason for name, value in goals.items() if (reason := _try(name, value))}
    answers.write(json.dumps(refused).encode() + b"\n")


def _try(name: str, value: str) -> str:
    """Why not, of one parameter; in the namespace that we stand in."""
    sysctls = Sysctls()
    parts = name.split(".")
    if len(parts) == 5 and parts[2] in _BY_INTERFACE:
        name = ".".join((*parts[:3], _BY_INTERFACE[parts[2]], parts[4]))
    try:
        if sysctls.read(name) is None or not sysctls.is_writable(name):
            return ""
        sysctls.write(name, value)
        now = sysctls.read(name)
    except CheckFailed:
        return ""
    except ApplyFailed as error:
        cause = error.__cause__
        is_value = isinstance(cause, OSError) and cause.errno in _WRONG_VALUE
        return "the kernel refuses this value" if is_value else ""
    return "" if _means(now, value) else f"the kernel makes {now} of it"


def _means(now: str | None, value: str) -> bool:
    from tsstack.parts.kernel.plan import same_value

    return same_value(now, normalised(value))


def _why_no_congestion_control(name: str) -> str:
    path = Path("/proc/sys", *_AVAILABLE.split("."))
    here = path.read_text().split() if path.exists() else []
    if not here or name in here or _is_module(f"tcp_{name}"):
        return ""
    return f"this kernel has no such congestion control; it has {', '.join(here)}"


def _is_module(name: str) -> bool:
    """Whether the kernel could load it (modprobe(8): -n does everything but that)."""
    if which("modprobe") is None:
        return False
    try:
        return run(["modprobe", "-n", "-q", name], check=False).returncode == 0
    except CommandFailed:
        return False
