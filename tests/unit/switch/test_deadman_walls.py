"""What restricts the dead man, from the boot unit's own file."""

from __future__ import annotations

from pathlib import Path

from tsstack.model.facts import Paths
from tsstack.switch.walls import walls, walls_for

UNIT = """
[Unit]
Description=x

[Service]
Type=oneshot
ExecStart=/usr/bin/tsstack recover --boot
# Why.
Restart=on-failure
RestartSec=30s

ProtectSystem=strict
ReadWritePaths=/run /var
PrivateTmp=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged

[Install]
WantedBy=multi-user.target
"""


def test_they_are_all_that_restricts_the_unit_and_nothing_of_its_life() -> None:
    assert walls(UNIT, written=[Path("/srv/state"), Path("/run/x")], read=[Path("/opt/pipx")]) == (
        "ProtectSystem=strict",
        "ReadWritePaths=/run /var",
        "PrivateTmp=yes",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged",
        "ReadWritePaths=-/srv/state -/run/x",
    )


def test_code_below_tmp_is_shown_and_data_there_is_written() -> None:
    shown = walls(UNIT, written=[Path("/run")], read=[Path("/tmp/venv"), Path("/usr")])
    assert ("PrivateTmp=yes" in shown, shown[-1]) == (True, "BindReadOnlyPaths=-/tmp/venv")
    written = walls(UNIT, written=[Path("/var/tmp/state")], read=[Path("/tmp/venv")])
    assert ("PrivateTmp=yes" in written, written[-1]) == (False, "ReadWritePaths=-/var/tmp/state")


def test_the_shipped_unit_gives_the_host_s_own_parameters_and_paths() -> None:
    """In an IPC namespace of its own, kernel.shmmax would be undone for the dead man alone."""
    found = walls_for(Paths(state=Path("/data/state"), log=Path("/data/log")))
    keys = {setting.partition("=")[0] for setting in found}
    assert keys >= {"CapabilityBoundingSet", "ProtectSystem", "SystemCallFilter", "NoNewPrivileges"}
    assert not keys & {"PrivateIPC", "PrivateNetwork", "ProtectKernelTunables", "ExecStart", "Restart"}
    (gates,) = [each for each in found if each.startswith("ReadWritePaths=-/data")]
    assert gates == "ReadWritePaths=-/data/state -/run/tsstack -/data/log -/etc/nginx"
