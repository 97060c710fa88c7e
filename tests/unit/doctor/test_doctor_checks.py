"""What the doctor says of facts: each check with facts that show a trouble, and with facts that do not."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tsstack.doctor
from tsstack import errors
from tsstack.doctor.arrival import (
    ArrivalFacts,
    PeerFacts,
    Ruling,
    Socket,
    check_arrival,
    check_peer,
    unproven,
)
from tsstack.doctor.certificates import CertificateFacts, check_certificates
from tsstack.doctor.engines import EngineFacts, check_engines
from tsstack.doctor.file import FileFacts, check_file
from tsstack.doctor.finding import Finding, listed, worst
from tsstack.doctor.foreign import Others, check_foreign
from tsstack.doctor.forwarding import ForwardingFacts, check_forwarding
from tsstack.doctor.generations import GenerationFacts, check_generation
from tsstack.doctor.listeners import ListenerFacts, check_listeners
from tsstack.doctor.machine import Clock, Disk, Units, check_clock, check_disks, check_units
from tsstack.doctor.names import SILENT, Answer, NameFacts, check_names
from tsstack.doctor.needs import Needs, needs_of
from tsstack.doctor.remarks import area_of, check_remarks
from tsstack.doctor.rights import check_rights
from tsstack.explain.decisions import Decision
from tsstack.explain.doctor_pages import FINDINGS
from tsstack.explain.others import Asking, Hit
from tsstack.explain.status_pages import REMARKS
from tsstack.model.facts import NginxFacts
from tsstack.parts.firewall.foreign import ForeignDrop

DAY_S = 86400.0
NOW = 1_800_000_000.0
OWN = "100.64.0.2"
NAME = "wiki.kernelcore.tail.test"

ALL_NEEDED = Needs(
    known=True, firewall=True, tailnet=True, proxy=True, streams=True, identity=True, egress=True,
    ingress=True, congestion="bbr", congestion_is_own=True, secrets=True, forwarding=True,
)  # fmt: skip
ENGINES = EngineFacts(
    needs=ALL_NEEDED, nginx=NginxFacts((1, 22, 1)), tailscaled=(1, 102, 3), nft="1.0.6", kernel=(6, 1),
    netfilter_fault="", tun_fault="", egress_fault="", ingress_fault="", congestion=("cubic", "bbr"),
)  # fmt: skip
NAMES = NameFacts(
    names=(NAME,),
    expected=frozenset({OWN, "fd7a::2"}),
    own_name="kernelcore.tail.test",
    tailnet={NAME: Answer((OWN, "fd7a::2"))},
    system={NAME: Answer((OWN,))},
    system_server="192.0.2.53",
)
CERTIFICATE = CertificateFacts(
    (NAME,), "local-ca", "/tls/wiki.pem", begins=NOW - DAY_S, ends=NOW + 80 * DAY_S
)
FORWARDING = ForwardingFacts(
    reason="192.168.15.0/24", ipv4=1, ipv6=1, rp_filter={"eth0": 2, "tailscale0": 0}, uplink="eth0"
)
LISTENERS = ListenerFacts(wanted=3, running=True, wanted_digest="abc", served_digest="abc", asks_status=True)
SOCKETS = (Socket(f"{OWN}:443", "proxy.https_port"), Socket(f"{OWN}:5432", "proxy.services.db"))
ARRIVAL = ArrivalFacts(sockets=SOCKETS, vhosts=3)
PEER = PeerFacts(
    "laptop", "100.64.0.10", online=True, tunnel_s=0.0123, way="direct by 192.0.2.7:41641",
    rulings=(Ruling("tcp/443", "accepted", source="100.64.0.10"),),
)  # fmt: skip
GENERATION = GenerationFacts(live=7, boot=7, kept=(6, 7))
SOUND_FILE = FileFacts("/etc/tsstack/tsstack.yaml", True, live=7, same_as_live=True)
FOREIGN = ForeignDrop("ip", "filter", "INPUT", "input", "policy drop")
DROPPED = Hit(
    "tcp/443",
    "internal",
    "100.64.0.9",
    "tailscale0",
    Decision("ip", "filter", "INPUT", "", "", "drop", owner="x"),
)


def bad(findings: Any) -> list[tuple[str, str]]:
    """Code and level of what is not well; each of it says what was seen."""
    found = [each for each in findings if each.level != "ok"]
    assert all(each.evidence for each in found)
    return [(each.code, each.level) for each in found]


WELL = {
    "file": lambda: check_file(SOUND_FILE),
    "no file": lambda: check_file(replace(SOUND_FILE, present=False)),
    "rights": lambda: check_rights(is_root=True, hidden=("keys",)),
    "engines": lambda: check_engines(ENGINES),
    "engines that nobody needs": lambda: check_engines(EngineFacts(Needs(known=True), kernel=(6, 1))),
    "disks": lambda: check_disks([Disk("/var", 1 << 30, 100_000), Disk("/srv", 1 << 40, None)]),
    "clock": lambda: check_clock(Clock(True, 0.4, server="hs")),
    "clock that nobody keeps and that is right": lambda: check_clock(Clock(False, -1.0, server="hs")),
    "clock of a slow answer": lambda: check_clock(Clock(True, 7.0, margin_s=3.5, server="hs")),
    "kept clock": lambda: check_clock(Clock(True)),
    "units": lambda: check_units(Units()),
    "no systemd": lambda: check_units(None),
    "generation": lambda: check_generation(GENERATION),
    "no generation": lambda: check_generation(GenerationFacts(live=0)),
    "names": lambda: check_names(NAMES),
    "names of tailscale services": lambda: check_names(replace(NAMES, expected=frozenset())),
    "certificates": lambda: check_certificates([CERTIFICATE], NOW),
    "forwarding": lambda: check_forwarding(FORWARDING),
    "no forwarding": lambda: check_forwarding(ForwardingFacts()),
    "gro that is fixed": lambda: check_forwarding(replace(FORWARDING, gro_warning="slow", gro_fixed=True)),
    "foreign": lambda: check_foreign(Others()),
    "listeners": lambda: check_listeners(LISTENERS),
    "no proxy": lambda: check_listeners(ListenerFacts()),
    "arrival": lambda: check_arrival(ARRIVAL),
    "peer": lambda: check_peer(PEER),
}


@pytest.mark.parametrize("name", WELL)
def test_where_all_is_well_each_check_says_so(name: str) -> None:
    findings = list(WELL[name]())
    assert worst(findings) == "ok"
    assert findings or name == "no systemd"
    assert all(each.evidence and not each.fix for each in findings)


def engines(**changes: Any) -> Any:
    return check_engines(replace(ENGINES, **changes))


def names(tailnet: Answer | None = None, **changes: Any) -> Any:
    answers = {"tailnet": {NAME: tailnet}} if tailnet else {}
    return check_names(replace(NAMES, **answers, **changes))


def certificate(**changes: Any) -> Any:
    return check_certificates([replace(CERTIFICATE, **changes)], NOW)


ILL: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "a named file that is not there": (
        check_file(FileFacts("x.yaml", False, asked=True)), [("TS801", "error")],
    ),
    "a file that was changed": (
        check_file(replace(SOUND_FILE, same_as_live=False)), [("TS802", "warning")],
    ),
    "a file that cannot be rendered": (
        check_file(replace(SOUND_FILE, fault="no addresses")), [("TS803", "error")],
    ),
    "a fault of the file": (
        check_file(replace(SOUND_FILE, findings=(
            errors.Finding("TS205", "error", "firewall", "wide", "write less", "f.yaml", 3, 5),
            errors.Finding("TS213", "warning", "proxy", "closed", "", "f.yaml", 9, 1),
            errors.Finding("TS214", "info", "firewall", "bound", "", "f.yaml", 4, 1),
        ))), [("TS205", "error"), ("TS213", "warning")],
    ),
    "not root": (check_rights(is_root=False, hidden=("keys",)), [("TS804", "warning")]),
    "no nginx": (engines(nginx=None), [("TS811", "error")]),
    "no nginx, and nobody knows whether it is needed": (
        engines(nginx=None, needs=Needs()), [("TS811", "warning")],
    ),
    "nginx without streams": (
        engines(nginx=NginxFacts((1, 22, 1), stream=False)), [("TS812", "error")],
    ),
    "nginx without auth_request": (
        engines(nginx=NginxFacts((1, 22, 1), auth_request=False)), [("TS812", "error")],
    ),
    "no tailscaled": (engines(tailscaled=None, tailscaled_installed=False), [("TS811", "error")]),
    "an old tailscaled": (engines(tailscaled=(1, 78, 1)), [("TS813", "warning")]),
    "an unstable tailscaled": (engines(tailscaled=(1, 103, 5)), [("TS813", "warning")]),
    "no libnftables": (engines(nft_fault="cannot be loaded"), [("TS811", "error")]),
    "no nf_tables": (engines(netfilter_fault="not supported"), [("TS814", "error")]),
    "no tun": (engines(tun_fault="No such file"), [("TS814", "error")]),
    "no sops": (engines(sops=False), [("TS811", "warning")]),
    "no tc": (engines(tc=False), [("TS811", "error")]),
    "no tbf": (engines(egress_fault="no tbf"), [("TS814", "error")]),
    "no ifb": (engines(ingress_fault="no ifb"), [("TS814", "error")]),
    "no bbr": (engines(congestion=("cubic",)), [("TS814", "warning")]),
    "little room": (check_disks([Disk("/var", 50 << 20, None)]), [("TS821", "warning")]),
    "no room": (check_disks([Disk("/var", 4 << 20, None)]), [("TS821", "error")]),
    "few inodes": (check_disks([Disk("/var", 1 << 30, 900)]), [("TS822", "warning")]),
    "no inodes": (check_disks([Disk("/var", 1 << 30, 0)]), [("TS822", "error")]),
    "a read-only disk": (check_disks([Disk("/var", 1 << 30, None, read_only=True)]), [("TS823", "error")]),
    "a clock that nobody keeps": (check_clock(Clock(False)), [("TS824", "warning")]),
    "a clock that is off": (check_clock(Clock(True, 20.0, server="hs")), [("TS825", "warning")]),
    "a clock that is wrong": (check_clock(Clock(True, -3600.0, server="hs")), [("TS825", "error")]),
    "a silent control server": (
        check_clock(Clock(True, server="hs", fault="refused")), [("TS826", "warning")],
    ),
    "no units": (check_units(Units("tsstack-boot.service not enabled")), [("TS827", "warning")]),
    "old units": (check_units(Units(old=("tsstack-boot.service",))), [("TS828", "warning")]),
    "drift": (
        check_generation(replace(GENERATION, drift=(("kernel", "~ a: 0 -> 1"), ("kernel", "~ b: 0 -> 1")))),
        [("TS831", "warning")],
    ),
    "drift that is told elsewhere": (
        check_generation(replace(GENERATION, drift=(("firewall", "~ x"),)), told=("firewall",)), [],
    ),
    "a part's remark": (
        check_generation(replace(GENERATION, remarks=(("proxy", "wiki: nothing answers at :1"),))),
        [("TS832", "warning")],
    ),
    "a remark that the monitor tells too": (
        check_generation(
            replace(GENERATION, remarks=(("proxy", "wiki: nothing answers at :1"),)), dead=("wiki",)
        ), [],
    ),
    "forwarding that is told elsewhere": (
        check_generation(
            replace(GENERATION, drift=(("kernel", "~ net.ipv4.ip_forward: 0 -> 1"),)),
            parameters=("net.ipv4.ip_forward",),
        ), [],
    ),
    "a parameter of a longer name than the one that is told elsewhere": (
        check_generation(
            replace(GENERATION, drift=(("kernel", "~ net.ipv4.ip_forward_update_priority: 0 -> 1"),)),
            parameters=("net.ipv4.ip_forward",),
        ), [("TS831", "warning")],
    ),
    "routes whose withdrawal is told elsewhere": (
        check_generation(
            replace(GENERATION, drift=(("tailscale", "~ tailscale.advertise.routes: none -> 10.9.0.0/24"),)),
            parameters=("tailscale.advertise.routes",),
        ), [],
    ),
    "a host that cannot be compared": (
        check_generation(replace(GENERATION, fault="silent")), [("TS833", "error")],
    ),
    "a silent tailscaled that is told elsewhere": (
        check_generation(replace(GENERATION, fault="tailscaled does not answer"), silent=True), [],
    ),
    "a fault beside a silent tailscaled": (
        check_generation(replace(GENERATION, fault="nft does not answer"), silent=True),
        [("TS833", "error")],
    ),
    "a refusal": (
        check_generation(replace(GENERATION, refusals=(("proxy", "no", "hint"),))), [("TS834", "error")],
    ),
    "a torn switch": (check_generation(replace(GENERATION, abandoned=8)), [("TS835", "error")]),
    "no boot generation": (
        check_generation(replace(GENERATION, boot_fault="generation 7 is missing")),
        [("TS836", "error")],
    ),
    "a name that is not there": (names(Answer(cause="no such name")), [("TS841", "error")]),
    "a silent resolver": (names(Answer(cause=SILENT)), [("TS841", "error")]),
    "a name of another host": (names(Answer(("100.64.0.9",))), [("TS842", "error")]),
    "a name of two hosts": (names(Answer((OWN, "100.64.0.9"))), [("TS842", "error")]),
    "a system that knows nothing": (
        names(system={NAME: Answer(cause="no such name")}), [("TS843", "warning")],
    ),
    "a system that knows another": (names(system={NAME: Answer(("192.0.2.1",))}), [("TS843", "warning")]),
    "pitfall 18": (names(Answer(cause="no such name"), hosted=True), [("TS844", "error")]),
    "pitfall 24": (names(resolver_faults=("taken; ln -sf a b",)), [("TS845", "warning")]),
    "an uncovered name": (certificate(uncovered=(NAME,)), [("TS846", "error")]),
    "a certificate from the future": (certificate(begins=NOW + 3600), [("TS847", "error")]),
    "a key of another": (certificate(fault="does not belong"), [("TS848", "error")]),
    "a leaf of another CA": (certificate(chain_fault="not signed"), [("TS849", "error")]),
    "a chain that ends": (certificate(chain_fault="not signed", kind="files"), [("TS849", "warning")]),
    "a key for all to read": (certificate(key_mode=0o644), [("TS851", "warning")]),
    "no forwarding": (check_forwarding(replace(FORWARDING, ipv4=0)), [("TS861", "error")]),
    "no IPv6 forwarding": (check_forwarding(replace(FORWARDING, ipv6=0)), [("TS861", "error")]),
    "no IPv6 forwarding where IPv4 alone is offered": (
        check_forwarding(replace(FORWARDING, ipv6=0, families=frozenset({4}))), [],
    ),
    "an interface that does not forward": (
        check_forwarding(replace(FORWARDING, shut=("eth0",))), [("TS861", "error")],
    ),
    "pitfall 9": (check_forwarding(replace(FORWARDING, rp_filter={"eth0": 1})), [("TS862", "warning")]),
    "a strict filter of one who uses an exit node": (
        check_forwarding(ForwardingFacts(uses_exit="exit-a", ipv4=0, rp_filter={"eth0": 1})),
        [("TS862", "warning")],
    ),
    "slow forwarding": (check_forwarding(replace(FORWARDING, gro_warning="slow")), [("TS863", "warning")]),
    "pitfall 4": (check_foreign(Others(("ip filter",), Asking(3, (DROPPED,)))), [("TS864", "error")]),
    "a table that could not be tried": (
        check_foreign(Others(("ip filter",), fault="no tun", drops=(FOREIGN,))),
        [("TS864", "warning"), ("TS864", "warning")],
    ),
    "a table that drops something else": (check_foreign(Others(("ip filter",), Asking(3, ()))), []),
    "a port that is held": (
        check_listeners(replace(LISTENERS, holders=((f"{OWN}:443", "proxy.https_port", "caddy (pid 1)"),))),
        [("TS865", "error")],
    ),
    "no nginx running": (
        check_listeners(replace(LISTENERS, running=False, served_digest="")), [("TS866", "error")],
    ),
    "silent": (check_listeners(replace(LISTENERS, served_digest="")), [("TS866", "error")]),
    "another configuration": (check_listeners(replace(LISTENERS, served_digest="x")), [("TS866", "error")]),
    "no loopback": (check_arrival(replace(ARRIVAL, loopback_fault="timed out")), [("TS871", "error")]),
    "a silent socket": (
        check_arrival(replace(ARRIVAL, sockets=(replace(SOCKETS[0], fault="refused"), SOCKETS[1]))),
        [("TS872", "error")],
    ),
    "a vhost of another": (
        check_arrival(replace(ARRIVAL, vhost_fault="wiki does not answer")), [("TS873", "error")],
    ),
    "nobody of that name": (check_peer(PeerFacts("leptop", near=("laptop",))), [("TS874", "error")]),
    "a silent tunnel": (
        check_peer(replace(PEER, tunnel_s=None, tunnel_fault="no answer")), [("TS874", "error")],
    ),
    "rules against a peer": (
        check_peer(replace(PEER, rulings=(Ruling("tcp/443", "dropped", "no rule"),))), [("TS876", "error")],
    ),
    "rules that cannot be asked": (
        check_peer(replace(PEER, rulings=(), rules_fault="needs root")), [("TS877", "warning")],
    ),
}  # fmt: skip
_ILL_FINDINGS = {name: list(findings) for name, (findings, _) in ILL.items()}


def test_a_port_where_nobody_listens_is_mended_by_a_reload_where_nginx_runs() -> None:
    silent = (replace(SOCKETS[0], fault="Connection refused", refused=True), SOCKETS[1])
    (told,) = [each for each in check_arrival(replace(ARRIVAL, sockets=silent)) if each.code == "TS872"]
    assert told.fix.startswith("ss -ltnp")
    facts = replace(ARRIVAL, sockets=silent, reload="nginx -s reload")
    (told,) = [each for each in check_arrival(facts) if each.code == "TS872"]
    assert told.fix == "nginx -s reload; nginx-test"
    dropped = (replace(SOCKETS[0], fault="no answer within 2 s: its packets are dropped"), SOCKETS[1])
    (told,) = [each for each in check_arrival(replace(facts, sockets=dropped)) if each.code == "TS872"]
    assert told.fix.startswith("ss -ltnp")


@pytest.mark.parametrize("name", ILL)
def test_each_trouble_has_its_code(name: str) -> None:
    assert bad(_ILL_FINDINGS[name]) == ILL[name][1]


def test_every_code_that_is_said_is_explained_and_no_other() -> None:
    folder = Path(str(tsstack.doctor.__file__)).parent
    said = {code for path in folder.rglob("*.py") for code in re.findall(r'"(TS8\d{2})"', path.read_text())}
    assert said == {remark.code for remark in FINDINGS}


def test_every_code_of_the_doctor_is_shown_by_a_test() -> None:
    shown = {code for _, expected in ILL.values() for code, _ in expected}
    assert {remark.code for remark in FINDINGS} - shown == {"TS805"}  # test_doctor_walk.py


def test_the_explained_level_is_one_that_is_said() -> None:
    levels = {remark.code: remark.level for remark in FINDINGS}
    said: dict[str, set[str]] = {}
    for _, expected in ILL.values():
        for code, level in expected:
            said.setdefault(code, set()).add(level)
    for code, level in levels.items():
        assert code not in said or level in said[code], code


def test_a_fault_of_the_file_has_its_line() -> None:
    first = _ILL_FINDINGS["a fault of the file"][0]
    assert first.evidence == "f.yaml:3:5: firewall: wide"
    assert first.fix == "write less"


def test_what_is_well_beside_a_trouble_is_still_said() -> None:
    findings = list(engines(nginx=None))
    assert [each.about for each in findings if each.level == "ok"] == ["tailscaled", "nft", "kernel"]


def test_a_profile_that_the_kernel_has_not_is_no_trouble() -> None:
    needs = replace(ALL_NEEDED, congestion_is_own=False)
    findings = list(engines(congestion=("cubic",), needs=needs))
    assert worst(findings) == "ok"
    assert any("goes on without it" in each.evidence for each in findings)


def test_the_fix_for_a_name_is_the_record_to_write() -> None:
    (finding,) = _ILL_FINDINGS["a name that is not there"]
    assert f'{{"name": "{NAME}", "type": "A", "value": "{OWN}"}}' in finding.fix
    (hosted,) = _ILL_FINDINGS["pitfall 18"]
    assert "names: path" in hosted.fix


def test_many_names_are_one_finding() -> None:
    many = tuple(f"s{number}.kernelcore.tail.test" for number in range(40))
    answers = {name: Answer(cause="no such name") for name in many[1:]} | {many[0]: Answer((OWN,))}
    (finding,) = check_names(NameFacts(many, NAMES.expected, NAMES.own_name, tailnet=answers))
    assert finding.evidence.startswith("s1.kernelcore.tail.test, ")
    assert "and 34 more" in finding.evidence


def test_dockers_policy_gets_dockers_own_way_in() -> None:
    docker = ForeignDrop("ip", "filter", "FORWARD", "forward", "policy drop")
    finding, _ = check_foreign(Others(drops=(docker,)))
    assert "DOCKER-USER" in finding.fix
    (other,) = _ILL_FINDINGS["pitfall 4"]
    assert other.fix == "nft insert rule ip filter INPUT iifname tailscale0 tcp dport '{ 443 }' accept"


def test_what_cannot_be_shown_from_here_is_said() -> None:
    (alone,) = unproven(SOCKETS, None, "")
    assert "--from PEER" in alone
    (with_peer,) = unproven(SOCKETS, PEER, f"https://{NAME}/")
    assert f"on laptop: curl -I https://{NAME}/" in with_peer
    (by_tcp,) = unproven(SOCKETS, PEER, "tcp://kernelcore.tail.test:5432")
    assert by_tcp.endswith("nc -vz kernelcore.tail.test 5432")
    assert list(unproven((), None, "")) == []


def test_needs_come_from_a_rendered_tree() -> None:
    assert needs_of(None) == Needs()
    assert needs_of({}) == Needs(known=True)
    tree = {
        "nftables/tsstack.nft": "",
        "tailscale/prefs.json": "{}",
        "tailscale/enrolment.json": '{"auth_key": {"secrets_file": "/s.yaml", "key": "authkey"}}',
        "kernel/sysctl.json": '{"net.ipv4.ip_forward": "1", "net.ipv4.tcp_congestion_control": "bbr"}',
        "kernel/origins.json": '{"net.ipv4.tcp_congestion_control": "kernel.profile"}',
        "kernel/links.json": '{"eth0": {"egress": {}}, "lan0": {"udp_gro": "required"}}',
    }
    assert needs_of(tree) == Needs(
        known=True, firewall=True, tailnet=True, egress=True, congestion="bbr", secrets=True, forwarding=True
    )
    with pytest.raises(ValueError):
        needs_of({"kernel/sysctl.json": "{"})


def test_every_remark_of_the_status_has_a_place_in_the_chain() -> None:
    areas = {area_of(remark.code) for remark in REMARKS}
    assert areas == {
        "tailnet", "services", "certificates", "firewall", "monitor", "generation",
    }  # fmt: skip


def test_remarks_are_those_of_the_status_and_in_its_words() -> None:
    remark = {"code": "TS731", "level": "critical", "about": "firewall", "message": "gone", "hint": "switch"}
    status: Any = {"warnings": [remark], **_silent_status()}
    assert list(check_remarks(status, "firewall")) == [
        Finding("TS731", "error", "firewall", "gone", "switch")
    ]
    assert bad(check_remarks(status, "monitor")) == []


def _silent_status() -> dict[str, Any]:
    return {"monitor": {"running": True, "state": {"paths": [1, 2]}}}


def test_what_is_refused_for_one_reason_is_one_finding() -> None:
    rulings = tuple(
        Ruling(f"tcp/{port}", "dropped", "box.yaml:3:1: closed", source=source)
        for source in ("100.64.0.10", "fd7a::a")
        for port in (80, 443)
    )
    (_, finding) = check_peer(replace(PEER, rulings=rulings))
    assert finding.evidence == (
        "tcp/80, tcp/443 from 100.64.0.10 and fd7a::a would be dropped: box.yaml:3:1: closed"
    )
    assert finding.fix == "tsstack explain --live 100.64.0.10 tcp/80"


def test_listed_says_how_many_more() -> None:
    assert listed(["a", "b", "a"]) == "a, b"
    assert listed("abcdefg", 3) == "a, b, c and 4 more"


def test_the_fix_of_ipv6_forwarding_keeps_the_default_route() -> None:
    off = replace(FORWARDING, ipv6=0, learning=("eth0", "wan.7"))
    (finding,) = check_forwarding(off)
    assert finding.fix == (
        "sysctl -w net.ipv6.conf.eth0.accept_ra=2 net.ipv6.conf.wan/7.accept_ra=2 "
        "net.ipv6.conf.all.forwarding=1"
    )
    (finding,) = check_forwarding(replace(off, ipv4=0, families=frozenset({4})))
    assert finding.fix == "sysctl -w net.ipv4.ip_forward=1"


def test_while_a_switch_waits_the_doctor_goes_back_to_nothing_that_it_would_drop() -> None:
    pending: Any = {"change": "c1", "generation": GENERATION.live, "phase": "unconfirmed", "left_s": 9.0}
    drifted = replace(GENERATION, drift=(("kernel", "~ a: 0 -> 1"),))
    (finding,) = check_generation(drifted, pending=pending)
    assert finding.fix.startswith("tsstack rollback    # undoes")


def test_an_nginx_of_our_own_is_reloaded_by_its_own_command() -> None:
    facts = replace(LISTENERS, served_digest="x", reload="kill -HUP 1")
    (finding,) = check_listeners(facts)
    assert finding.fix.startswith("kill -HUP 1; tail ")


def test_what_passes_from_one_address_alone_is_said_of_that_alone() -> None:
    four, six = "100.64.0.10", "fd7a:115c:a1e0::10"
    rulings = (
        Ruling("tcp/80", "accepted", source=four),
        Ruling("tcp/443", "dropped", "table ip strict", source=four),
        Ruling("tcp/80", "accepted", source=six),
        Ruling("tcp/443", "accepted", source=six),
    )
    _, refused, passed = check_peer(replace(PEER, rulings=rulings))
    assert refused.evidence == f"tcp/443 from {four} would be dropped: table ip strict"
    assert passed.evidence.startswith(f"tcp/80 from {four}; tcp/80, tcp/443 from {six} is accepted")
