"""What the Debian package's own scripts leave, by the real dpkg and systemd; the program is a stand-in."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest
from systemd_root import CHECKOUT, SystemdHost, systemd_host

from tsstack.switch.generations import SOURCE

__all__ = ["systemd_host"]

pytestmark = pytest.mark.netns

CONTROL = """\
Package: tsstack
Version: 1-1
Architecture: all
Maintainer: The tsstack developers <tsstack@localhost>
Description: the scripts of the package, around a stand-in for the program
"""
PROGRAM = """\
#!/bin/sh
echo "$*" >> /root/asked
[ "$*" != "units remove" ] || systemctl disable -q --now tsstack-renew.timer
"""
STAMP = "/var/lib/systemd/timers/stamp-tsstack-renew.timer"
LOGS = "/var/log/nginx"
OURS = (
    "tsstack-web.log",
    "tsstack-web.log.1",
    "tsstack-web.log.2.gz",
    "tsstack-error.log",
    "tsstack.identity.log",
)
THEIRS = ("access.log", "error.log.1")
STATE = (
    "/var/lib/tsstack/generations/0/manifest.json",
    "/var/lib/tsstack/tls/ca.key",
    "/run/tsstack/links.json",
)


def scripts() -> dict[str, str]:
    """The maintainer scripts as the builder writes them. It is read, not run: it would start itself anew."""
    tree = ast.parse((CHECKOUT / "scripts" / "package-deb").read_text())
    texts = {
        target.id: ast.literal_eval(each.value)
        for each in tree.body
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)
        for target in each.targets
        if isinstance(target, ast.Name)
    }
    return {name: texts[name.upper()] for name in ("postinst", "prerm", "postrm", "triggers")}


@pytest.fixture
def host(systemd_host: SystemdHost, tmp_path: Path) -> SystemdHost:
    """With the package, its daily timer on, and all that its use leaves on a disk."""
    tree = tmp_path / "tree"
    for name, text in {
        "DEBIAN/control": CONTROL,
        **{f"DEBIAN/{name}": text for name, text in scripts().items()},
        "usr/bin/tsstack": PROGRAM,
        "usr/lib/tsstack/lib/python3/here": "",
        "etc/tsstack/.keep": "",
        **{
            f"usr/lib/systemd/system/{unit}": (CHECKOUT / "monitor" / unit).read_text()
            for unit in ("tsstack-renew.service", "tsstack-renew.timer")
        },
    }.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if text.startswith("#!"):
            path.chmod(0o755)
    (tree / "etc/tsstack/.keep").unlink()
    built = tmp_path / "tsstack.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(built)], check=True)
    shutil.copy(built, systemd_host.path("/root/tsstack.deb"))
    systemd_host.run("dpkg", "-i", "/root/tsstack.deb")
    systemd_host.run("systemctl", "enable", "-q", "--now", "tsstack-renew.timer")
    for name in (*STATE, *(f"{LOGS}/{name}" for name in (*OURS, *THEIRS))):
        systemd_host.run("install", "-D", "/dev/null", name)
    # What did not end well would be listed until the next boot.
    systemd_host.run("systemd-run", "-q", "--unit=tsstack-broken", "false")
    systemd_host.run("systemd-run", "-q", "--unit=another-broken", "false")
    systemd_host.run(
        "sh", "-c", "until systemctl is-failed -q tsstack-broken another-broken; do sleep 0.1; done"
    )
    return systemd_host


def there(host: SystemdHost, *paths: str) -> list[str]:
    return [path for path in paths if host.run("test", "-e", path, check=False).returncode == 0]


def test_a_removal_keeps_what_it_may_be_installed_for_again(host: SystemdHost) -> None:
    kept = [STAMP, *STATE, *(f"{LOGS}/{name}" for name in (*OURS, *THEIRS))]
    assert there(host, *kept) == kept
    host.run("dpkg", "-r", "tsstack")
    assert host.path("/root/asked").read_text() == "units remove\n"
    assert there(host, *kept) == kept
    failed = host.run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout
    assert ("tsstack" in failed, "another-broken" in failed) == (False, True)


def test_a_way_back_that_fails_leaves_the_fallback(host: SystemdHost) -> None:
    """It is removed before the way back, which would lead to it, and set again by what it was made of."""
    fallback = "host: {name: box}\n"
    host.run("mkdir", "-p", "/var/lib/tsstack/fallbacks/1")
    host.run("tee", f"/var/lib/tsstack/fallbacks/1/{SOURCE}", stdin=fallback)
    host.run("ln", "-s", "fallbacks/1", "/var/lib/tsstack/fallback")
    host.run("ln", "-s", "generations/1", "/var/lib/tsstack/current")
    failing = """case "$*" in
      "fallback remove") rm -r /var/lib/tsstack/fallback /var/lib/tsstack/fallbacks ;;
      "fallback set "*) cp "$3" /root/set-again ;;
      rollback*) false ;;
    esac
    """
    host.run("tee", "/usr/bin/tsstack", stdin=PROGRAM + failing)
    assert host.run("dpkg", "-r", "tsstack", check=False).returncode != 0
    asked = [line.rpartition("/")[0] or line for line in host.path("/root/asked").read_text().splitlines()]
    assert asked == ["fallback remove", "rollback --to 0", "fallback set /var/lib/tsstack"]
    assert host.path("/root/set-again").read_text() == fallback


def test_what_runs_on_an_exchanged_python_starts_anew(host: SystemdHost) -> None:
    """The identity daemon too: it loads parts of Python when they are first needed."""
    host.run("systemd-run", "-q", "--collect", "--unit=tsstack-identity", "sleep", "infinity")
    shown = ("systemctl", "show", "--value", "-p", "MainPID", "tsstack-identity")
    before = host.run(*shown).stdout
    host.run("dpkg", "-i", "/root/tsstack.deb")
    assert host.run(*shown).stdout == before, "an upgrade leaves it to the next switch"
    host.run("dpkg-trigger", "--by-package=python3", "/usr/bin/python3")
    host.run("dpkg", "--configure", "--pending")
    assert host.run(*shown).stdout not in {before, "0\n"}


def test_a_systemd_that_does_not_answer_stops_no_installation(host: SystemdHost) -> None:
    host.run("sh", "-c", "mv /bin/systemctl /bin/systemctl.real; ln -s /bin/false /bin/systemctl")
    host.run("dpkg", "-i", "/root/tsstack.deb")
    host.run("tee", "/usr/bin/tsstack", stdin="#!/bin/sh\n")
    host.run("dpkg", "-r", "tsstack")
    host.run("dpkg", "-P", "tsstack")


@pytest.mark.parametrize("written", [True, False])
def test_a_purge_leaves_the_admins_files_and_nothing_else(host: SystemdHost, written: bool) -> None:
    if written:
        host.run("tee", "/etc/tsstack/tsstack.yaml", stdin="host: {name: one}\n")
    host.run("dpkg", "-P", "tsstack")
    assert there(host, STAMP, "/var/lib/tsstack", "/run/tsstack", "/usr/lib/tsstack") == []
    left = host.run("ls", LOGS).stdout.split()
    assert [name for name in left if name in OURS] == []
    assert set(THEIRS) <= set(left)
    assert there(host, "/etc/tsstack", "/etc/tsstack/tsstack.yaml") == (
        ["/etc/tsstack", "/etc/tsstack/tsstack.yaml"] if written else []
    )
    failed = host.run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout
    assert ("tsstack" in failed, "another-broken" in failed) == (False, True)
    assert "tsstack" not in host.run("systemctl", "list-timers", "--all").stdout


def test_a_way_back_that_fails_keeps_the_package(host: SystemdHost) -> None:
    """Nothing of it is taken away, so that another try has all that it needs."""
    host.run("ln", "-s", "generations/1", "/var/lib/tsstack/current")
    host.run("tee", "/usr/bin/tsstack", stdin=PROGRAM + '[ "$1" != rollback ]\n')
    assert host.run("dpkg", "-P", "tsstack", check=False).returncode != 0
    assert "rollback --to 0\n" in host.path("/root/asked").read_text()
    assert there(host, STAMP, *STATE, "/usr/bin/tsstack") == [STAMP, *STATE, "/usr/bin/tsstack"]
    assert "tsstack-renew.timer" in host.run("systemctl", "list-timers", "--all").stdout
