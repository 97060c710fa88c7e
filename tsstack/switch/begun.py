"""Whether this boot has had its generation: from then on what is live is what somebody has asked for."""

from __future__ import annotations

from pathlib import Path

from tsstack.switch.site import Site
from tsstack.system.files import write_durably


def has_begun(site: Site) -> bool:
    """Since this boot of the machine, or start of the container."""
    return _mark(site).exists()


def note_begun(site: Site) -> None:
    """Raises OSError."""
    if not has_begun(site):
        site.paths.run.mkdir(parents=True, exist_ok=True)
        write_durably(_mark(site), "")


def forget_begun(site: Site) -> None:
    """A boot begins, maybe one that has kept /run: systemctl(1), soft-reboot; a container's restart.

    Raises OSError.
    """
    _mark(site).unlink(missing_ok=True)


def _mark(site: Site) -> Path:
    return site.paths.run / "begun"
