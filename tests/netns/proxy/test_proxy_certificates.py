"""A certificate of the user's own on a real nginx: replaced, expired, gone back to."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

NAME = "wiki.box.tail.test"
HOST = "host: {name: box, tailnet: tail.test}\n"
OWN = HOST + (
    "proxy: {tls: {certificate: /etc/good.pem, key: /etc/good.key}, services: {wiki: {upstream: 8000}}}"
)
OTHER = OWN.replace("8000", "8001")


def renew_files(host, *, start=-1.0, end=60.0, name="good", names=NAME):
    """Overwrite /etc/NAME.pem and its key, as an ACME client does; days from now."""
    made = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_proxy_fitness as t\n"
        "pair = t.make_pair(start=float(sys.argv[3]), end=float(sys.argv[4]), names=(sys.argv[5],))\n"
        "for kind, data in zip(('pem', 'key'), pair): open(f'/etc/{sys.argv[2]}.{kind}', 'wb').write(data)\n"
    )
    unit = Path(__file__).parents[2] / "unit" / "proxy"
    host.run(sys.executable, "-B", "-c", made, unit, name, start, end, names)


def served(host):
    """The serial number of the leaf that clients see."""
    return host.run(
        "sh", "-c",
        f"openssl s_client -connect 100.64.0.1:443 -servername {NAME} </dev/null 2>/dev/null "
        "| openssl x509 -noout -serial",
    ).stdout  # fmt: skip


def on_disk(host):
    return host.run("openssl", "x509", "-in", "/etc/good.pem", "-noout", "-serial").stdout


def test_a_renewed_pair_is_loaded_by_the_switch_and_by_renew(host):
    renew_files(host)
    first = host.switch(OWN)
    assert first["changes"][-1] == f"+ certificate for {NAME}: /etc/good.pem"
    assert served(host) == on_disk(host)
    assert host.order("renew")["renewed"] == []
    for op in ("switch", "renew"):
        renew_files(host)
        assert served(host) != on_disk(host)
        assert host.order("plan", yaml=OWN)["changes"] == [
            f"~ certificate for {NAME}: /etc/good.pem as nginx loaded it -> as it is on disk now"
        ]
        before = host.workers()
        answer = host.switch(OWN) if op == "switch" else host.order("renew")
        assert "error" not in answer and served(host) == on_disk(host)
        assert set(host.workers()).isdisjoint(before)
        assert host.order("renew")["renewed"] == [] and host.switch(OWN)["changes"] == []
    private = host.run(
        "grep", "-rl", "PRIVATE KEY", "/var/lib/tsstack/generations", "/run/tsstack", check=False
    )
    assert private.stdout == ""


def test_a_pair_of_a_links_target_that_moves_on_is_noticed(host):
    """An ACME client keeps `live/` as links to the newest of `archive/`."""
    renew_files(host, name="one")
    renew_files(host, name="two")
    for kind in ("pem", "key"):
        host.run("ln", "-s", f"one.{kind}", f"/etc/good.{kind}")
    host.switch(OWN)
    for kind in ("pem", "key"):
        host.run("ln", "-sfn", f"two.{kind}", f"/etc/good.{kind}")
    assert host.order("renew")["renewed"] == [NAME]
    assert served(host) == on_disk(host)


def test_files_that_were_only_touched_are_not_loaded_again(host):
    renew_files(host)
    host.switch(OWN)
    host.run("touch", "/etc/good.pem")
    before = host.workers()
    assert host.order("renew")["renewed"] == []
    assert host.switch(OWN)["changes"] == [] and host.workers() == before


def test_an_unusable_new_pair_is_told_and_the_old_one_is_served_on(host):
    renew_files(host)
    host.switch(OWN)
    good, before = served(host), host.workers()
    renew_files(host, start=-9, end=-2)
    for answer in (host.order("renew"), host.order("switch", yaml=OWN)):
        assert answer["error"] == "CheckFailed" and "it expired on" in answer["message"]
        assert "renew it in its place" in answer["hint"]
    host.write("/etc/good.key", "")
    answer = host.order("renew")
    assert answer["error"] == "CheckFailed" and "/etc/good.key is empty" in answer["message"]
    assert served(host) == good and host.workers() == before
    renew_files(host)
    assert host.order("renew")["renewed"] == [NAME] and served(host) == on_disk(host)


def test_one_that_is_about_to_expire_is_a_warning(host):
    renew_files(host, start=-30, end=2)
    assert any("/etc/good.pem expires on" in line for line in host.switch(OWN)["warnings"])


def test_one_that_is_not_yet_valid_is_refused_by_the_check(host):
    renew_files(host, start=1)
    answer = host.order("check", yaml=OWN)
    assert answer["error"] == "CheckFailed" and "not valid before" in answer["message"]


def test_going_back_to_an_expired_one_is_a_warning_and_a_new_switch_to_it_is_refused(host):
    renew_files(host)
    renew_files(host, name="new")
    first = host.switch(OWN)
    host.switch(OWN.replace("/good", "/new"))
    renew_files(host, start=-9, end=-2)
    refused = host.order("switch", yaml=OTHER)
    assert refused["error"] == "CheckFailed" and "it expired on" in refused["message"]
    back = host.order("switch", generation=first["generation"])
    assert "error" not in back and back["after"] == []
    assert any("it expired on" in line for line in back["warnings"])
    assert served(host) == on_disk(host)
    # Once it is live, it is no way back: what clients refuse is refused again.
    host.write("/etc/good.key", "junk")
    answer = host.order("switch", generation=first["generation"])
    assert answer["error"] == "CheckFailed" and "holds no PEM private key" in answer["message"]


def test_after_a_reboot_an_expired_one_does_not_keep_the_rest_from_coming_up(host):
    renew_files(host)
    first = host.switch(OWN)
    renew_files(host, start=-9, end=-2)
    host.run("nginx", "-s", "stop")
    host.run("rm", "-r", "/run/tsstack")
    answer = host.order("activate", generation=first["generation"])
    assert "error" not in answer, answer
    assert served(host) == on_disk(host)


def test_a_failed_switch_says_nothing_wrong_about_what_is_loaded(host):
    renew_files(host)
    first = host.switch(OWN)
    renew_files(host)
    assert host.order("switch", yaml=OTHER, fail=True)["rolled_back"]
    # The undoing reloaded nginx, which took the new pair.
    assert served(host) == on_disk(host)
    assert host.order("plan", yaml=OWN)["changes"] == []
    renew_files(host)
    host.order("switch", yaml=OWN, die_after="provide_certificates")
    assert served(host) != on_disk(host)
    assert host.order("plan", yaml=OWN)["changes"] != []
    # Nobody noted what was loaded; the recovery loads it again and does.
    host.order("switch", yaml=OTHER, die_after="_load")
    host.order("recover", generation=first["generation"])
    assert served(host) == on_disk(host)
    assert host.order("plan", yaml=OWN)["changes"] == []


@pytest.mark.parametrize("kind", ["certificate", "key"])
def test_devices_and_pipes_are_refused_at_once(host, kind):
    renew_files(host)
    os.mkfifo(host.path("/etc/pipe"))
    path = {"certificate": "/etc/good.pem", "key": "/etc/good.key"}[kind]
    for bad in ("/dev/zero", "/etc/pipe"):
        answer = host.order("check", yaml=OWN.replace(path, bad))
        assert answer["error"] == "CheckFailed"
        assert f"proxy.tls.{kind}: {bad} cannot be read: it is no regular file" in answer["message"]


def test_the_note_of_what_is_loaded_survives_a_switch_of_something_else(host):
    renew_files(host)
    host.switch(OWN)
    host.switch(OTHER)
    record = json.loads(host.path("/run/tsstack/proxy.json").read_text())
    (mark,) = record["certificates"].values()
    assert set(mark) == {"files", "chain"}
    assert host.order("renew")["renewed"] == []
