"""Commands that mend what a remark tells, to be pasted as they are; what follows `#` is for people. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from tsstack.status.shape import Pending, Status, Tailnet

# As tsstack.parts.tailscale.desired has them. That module would cost the screen its speed.
_HOSTED = ("", "https://controlplane.tailscale.com", "https://login.tailscale.com")
_COMMANDS = {"tsstack", "tailscale", "systemctl", "ip", "#"}
_ADMIN = "https://login.tailscale.com/admin/machines"


def reapply(live: int, boot: int, pending: Pending | None = None) -> str:
    """Makes the host again as the live generation says, whatever the file says by now.

    After `tsstack test` it makes that generation the one of the next boot as well. While a switch is not
    over that comes first: a rollback to the live generation would undo and drop it, and then not find it.
    """
    if pending is not None:
        return settle(pending)
    if not live:
        return "tsstack switch"
    lasting = "" if live == boot else ", for every boot too"
    return f"tsstack rollback --to {live}    # makes the host as generation {live} says, once more{lasting}"


def settle(pending: Pending) -> str:
    """What ends a switch that is not over."""
    if pending["phase"] == "unconfirmed":
        return "tsstack rollback    # undoes the switch that waits; tsstack confirm keeps it as it is"
    # Only root may read the record, and only root recovers.
    return "sudo ts-status" if pending["phase"] == "unknown" else "tsstack recover"


def start_monitor() -> str:
    """Where a package, NixOS or we ourselves have put its unit; else what puts it there."""
    return "systemctl start tsstack-monitor    # where there is no such unit: tsstack units install --monitor"


def renew_key(tailnet: Tailnet, *, expired: bool) -> str:
    """A node key that ends, or has ended.

    `tailscale up --force-reauth` alone is refused where prefs are set, and Headscale renews no expired key
    with an auth key: there the server's own command brings the node back by itself, with its addresses.
    """
    if not is_hosted(tailnet):
        return (
            f"headscale nodes expire -i {tailnet['id'] or 'ID'} --disable"
            f"    # on {tailnet['control']}: the key is good again and does not end"
        )
    if expired:
        return f"tsstack switch    # enrols with the file's key; or extend this one: {_ADMIN}"
    return f"tailscale up --force-reauth    # says which flags to repeat; or disable its expiry: {_ADMIN}"


def approve(tailnet: Tailnet, routes: Iterable[str]) -> str:
    """All the routes that are to be approved: Headscale's command takes the place of what was before."""
    if is_hosted(tailnet):
        return f"# approve it at {_ADMIN}"
    listed = ",".join(routes)
    return (
        f"headscale nodes approve-routes -i {tailnet['id'] or 'ID'} -r {listed}    # on {tailnet['control']}"
    )


def restart_nginx(status: Status) -> str:
    """One that is gone, or one that runs and is silent."""
    generation = status["generation"]
    if "timed out" in status["proxy"]["error"] or not generation["current"]:
        return f"systemctl restart {status['proxy']['unit']}"
    if generation["pending"] is not None:
        return settle(generation["pending"])
    return f"tsstack rollback --to {generation['current']}    # starts it; nginx-test says more"


def ask_about(complaint: str) -> str:
    """What looks at the thing that tailscaled complains of: netcheck knows nothing of names."""
    of_names = any(each in complaint.lower() for each in ("dns", "resolv.conf"))
    return "tsstack doctor    # asks who resolves names here" if of_names else "tailscale netcheck"


def renew_certificate(kind: str) -> str:
    """What makes a certificate that ends soon, or cannot be read, a good one.

    One of the user's own (`files`) nobody but the user renews; then nginx has to load it.
    """
    whose = "    # once the renewed pair is where proxy.tls says: nobody else renews it"
    return "tsstack certificates renew" + (whose if kind == "files" else "")


def connect(status: Status) -> str:
    """What brings tailscaled to Running."""
    tailnet = status["tailnet"]
    if tailnet["error"]:
        return f"systemctl {'start' if status['exit']['known'] else 'restart'} tailscaled"
    if has_expired(status):
        return renew_key(tailnet, expired=True)
    return {
        "NeedsLogin": "tsstack switch",
        "NeedsMachineAuth": f"# approve this device at {_ADMIN}",
        "Stopped": "tailscale up",
    }.get(tailnet["state"], "tailscale netcheck")


def pasted(hint: str) -> str:
    """A hint of somebody else's: a command stays one, a sentence becomes a comment."""
    return hint if not hint or hint.partition(" ")[0] in _COMMANDS else f"# {hint}"


def has_expired(status: Status) -> bool:
    """Whether this node's key has."""
    expires = status["tailnet"]["key_expires"]
    return expires is not None and expires <= status["at"]


def is_hosted(tailnet: Tailnet) -> bool:
    """Whether the control server is Tailscale's own."""
    return tailnet["control"].rstrip("/") in _HOSTED
