"""The units that a NixOS host gets, and the check of the file when the system is built."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from nix_engine import ROOT, Case, answers
from option_cases import HOST

_OWN = "kernelcore.tsstack"
_ZONES = "kernelcore.network.security.firewall-zones"
_TWO_INTERFACES = 'zones.home.interfaces = [ "eth0" ]; zones.pub.interfaces = [ "eth1" ];'
_PASSAGE = 'forward = [ { from = "home"; to = "pub"; allowedServices = [ "https" ]; } ];'
_CASES = {
    "all": "kernelcore.network.monitoring.tailscale.enable = true; "
    'kernelcore.network.proxy.nginx-tailscale = { enable = true; tailnetDomain = "t.ts.net"; };',
    "no-monitor": f"{_OWN}.enable = true;",
    "off": "",
    "served": f"{_ZONES}.enable = true; kernelcore.network.tuning.sysctl = "
    '{ "net.core.rmem_max" = "134217728"; "net.ipv4.tcp_rmem" = "1 2 3"; };'
    "kernelcore.network.proxy.nginx-tailscale = "
    '{ enable = true; tailnetDomain = "t.ts.net"; httpsPort = 8443; services = '
    '{ wiki.upstreamPort = 8000; db = { upstreamPort = 5432; protocol = "tcp"; }; }; };',
    "switched-off": f"{_OWN}.enable = false; sops.defaultSopsFile = ./a.yaml; "
    'kernelcore.network.vpn.tailscale = { enable = true; useExitNodes = [ "exit-a" ]; };',
    "forward-rule": f"{_ZONES} = {{ enable = true; {_TWO_INTERFACES} {_PASSAGE} }};",
    "forward-rule-in-settings": f"{_ZONES} = {{ enable = true; {_TWO_INTERFACES} }}; "
    f'{_OWN}.settings.firewall.forward = [ {{ from = "home"; to = "pub"; allow = "all"; }} ];',
    "router": 'kernelcore.network.vpn.tailscale = { enable = true; advertiseRoutes = [ "10.0.0.0/8" ]; };',
    "client": 'kernelcore.network.vpn.tailscale = { enable = true; useExitNodes = [ "exit-a" ]; };',
    "takes-routes": "kernelcore.network.vpn.tailscale = { enable = true; acceptRoutes = true; };",
    "client-with-zones": f"{_ZONES}.enable = true; "
    'kernelcore.network.vpn.tailscale = { enable = true; useExitNodes = [ "exit-a" ]; };',
    "client-with-its-own-wish": "networking.firewall.checkReversePath = false; "
    "kernelcore.network.vpn.tailscale = { enable = true; acceptRoutes = true; };",
    "unasked": 'kernelcore.network.vpn.tailscale.advertiseRoutes = [ "10.0.0.0/8" ];',
    "confirm": f'{_OWN} = {{ enable = true; confirm = "60s"; }};',
    "unproven": f"{_OWN} = {{ enable = true; prove = false; }};",
    "by-hand": f"{_OWN} = {{ enable = true; switchOnActivation = false; }};",
    "unchecked": f"{_OWN} = {{ enable = true; checkAtBuild = false; }};",
    "identity": f'{_OWN}.enable = true; kernelcore.secrets.tailscale.ageKeyFile = "/k";',
    "own-sops": "kernelcore.network.vpn.tailscale.enable = true; sops.defaultSopsFile = ./a.yaml; "
    'sops.secrets."tailscale-authkey".key = "ts/key";',
    "no-key": "kernelcore.network.vpn.tailscale = { enable = true; useAuthKeyFile = false; }; "
    'sops.defaultSopsFile = ./a.yaml; kernelcore.secrets.tailscale.extraKeys = [ "api_token" ];',
    "sops": "kernelcore.network.vpn.tailscale.enable = true; kernelcore.secrets.tailscale = "
    '{ sopsFile = ./a.yaml; key = "preauthkey"; extraKeys = [ "api_token" ]; };',
    "good": f"{_ZONES}.enable = true;",
    "bad": f'{_ZONES} = {{ enable = true; zones.admin.allowedIPs = [ "100.64.0.0/10" ]; }};',
}


@pytest.fixture(scope="session")
def evaluated(library: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    cases = [Case(name, f"{{ {HOST} {text} }}") for name, text in _CASES.items()]
    return answers(library, cases, tmp_path_factory.mktemp("units"))


def command(answer: dict[str, Any]) -> str:
    return str(answer["services"]["tsstack-switch"]["serviceConfig"]["ExecStart"]).partition("/bin/")[2]


def test_a_new_file_is_a_switch(evaluated: dict[str, dict[str, Any]]) -> None:
    assert command(evaluated["all"]) == "tsstack switch --unattended"
    assert command(evaluated["confirm"]) == "tsstack switch --unattended --confirm 60s"
    assert command(evaluated["unproven"]) == "tsstack switch --unattended --no-prove"
    assert "tsstack-switch" not in evaluated["by-hand"]["services"]


def test_the_words_of_the_unit_are_words_of_the_command_line() -> None:
    from tsstack.cli.change import switch

    known = {option for each in switch.params for option in each.opts}
    assert {"--confirm", "--no-prove", "--unattended"} <= known


def test_nothing_is_asked_for_and_nothing_runs(evaluated: dict[str, dict[str, Any]]) -> None:
    for name in ("off", "unasked", "switched-off"):
        assert not evaluated[name]["enabled"]
        assert evaluated[name]["services"] == {}
        assert evaluated[name]["firewall"] is True
        assert evaluated[name]["checkReversePath"] is True
        assert not evaluated[name]["tailscaled"]
        assert evaluated[name]["secrets"] == {}


def test_the_zone_that_is_there_without_any_opens_all_that_the_proxy_serves(
    evaluated: dict[str, dict[str, Any]],
) -> None:
    zones = json.loads(evaluated["served"]["text"])["firewall"]["zones"]
    assert zones == {"internal": {"interfaces": ["tailscale0"], "tcp": [80, 443, 8443, 5432]}}


def test_nixos_leaves_parameters_to_the_transaction(evaluated: dict[str, dict[str, Any]]) -> None:
    """null is "leave it": what systemd-sysctl writes has passed no guard and goes back with no generation."""
    given = evaluated["served"]["sysctl"]
    assert (given["net.core.rmem_max"], given["net.ipv4.tcp_rmem"]) == (None, None)
    told = json.loads(evaluated["served"]["text"])["kernel"]["sysctl"]
    assert (told["net.core.rmem_max"], told["net.ipv4.tcp_rmem"]) == ("134217728", "1 2 3")


@pytest.mark.parametrize("case", ["forward-rule", "forward-rule-in-settings", "router"])
def test_nixos_does_not_switch_forwarding_off_under_a_router(
    case: str, evaluated: dict[str, dict[str, Any]]
) -> None:
    given = evaluated[case]["sysctl"]
    assert given["net.ipv4.conf.all.forwarding"] is None
    assert given["net.ipv6.conf.all.forwarding"] is None
    assert evaluated["good"]["sysctl"]["net.ipv4.conf.all.forwarding"] is False


def test_nixos_firewall_lets_in_what_an_exit_node_sends(evaluated: dict[str, dict[str, Any]]) -> None:
    mode = {name: answer["checkReversePath"] for name, answer in evaluated.items()}
    assert (mode["client"], mode["takes-routes"]) == ("loose", "loose")
    assert (mode["router"], mode["client-with-zones"]) == (True, True)
    assert mode["client-with-its-own-wish"] is False


def test_what_a_configuration_with_zones_left_goes_before_the_switch(
    evaluated: dict[str, dict[str, Any]],
) -> None:
    gone = evaluated["all"]["services"]["tsstack-fallback-gone"]
    assert gone["before"] == ["tsstack-switch.service"]
    assert gone["serviceConfig"]["ExecStart"].endswith("fallback remove --made-of /etc/tsstack/fallback.yaml")
    assert "tsstack-fallback-gone" not in evaluated["served"]["services"]
    assert (
        "/etc/tsstack/fallback.yaml"
        in evaluated["served"]["services"]["tsstack-fallback"]["serviceConfig"]["ExecStart"]
    )


def test_every_unit_that_wants_to_be_installed_is_wanted(evaluated: dict[str, dict[str, Any]]) -> None:
    """NixOS ignores [Install]; the module must say the same."""
    shipped = {}
    for path in sorted((ROOT / "monitor").iterdir()):
        found = re.search(r"^WantedBy=(\S+)$", path.read_text(), re.MULTILINE)
        if path.suffix in {".service", ".socket", ".timer", ".path"} and found:
            shipped[path.name] = [found[1]]
    answer = evaluated["all"]
    wanted = {
        f"{name}.{kind}": unit["wantedBy"]
        for kind, units in (
            ("service", answer["services"]),
            ("socket", answer["sockets"]),
            ("timer", answer["timers"]),
            ("path", answer["paths"]),
        )
        for name, unit in units.items()
        if "wantedBy" in unit
    }
    for own in ("tsstack-switch.service", "tsstack-fallback-gone.service"):
        assert wanted.pop(own) == ["multi-user.target"]
    assert wanted == shipped


def test_the_units_name_no_program_that_nixos_has_not() -> None:
    """package.nix puts the right path for these two; NixOS has /bin/sh."""
    for path in sorted((ROOT / "monitor").iterdir()):
        if path.suffix not in {".service", ".socket", ".timer", ".path"}:
            continue
        named = re.findall(r"^Exec\w+=\S*?(/\S+)", path.read_text(), re.MULTILINE)
        assert set(named) <= {"/usr/bin/tsstack", "/bin/kill", "/bin/sh"}, path.name


def test_the_monitor_follows_the_live_generation_by_itself(evaluated: dict[str, dict[str, Any]]) -> None:
    """A reload at a new file, before the switch to it, would read the old one."""
    assert "reloadTriggers" not in evaluated["all"]["services"]["tsstack-monitor"]


def test_without_the_monitor_its_units_rest(evaluated: dict[str, dict[str, Any]]) -> None:
    answer = evaluated["no-monitor"]
    assert "tsstack-monitor" not in answer["services"]
    assert (answer["sockets"], set(answer["timers"])) == ({}, {"tsstack-dns"})


def test_the_logs_are_rotated_and_our_nginx_is_told(
    evaluated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    from tsstack.model.facts import Paths
    from tsstack.parts.proxy.engine import Engine
    from tsstack.parts.proxy.plan import log_name

    paths = Paths()
    engine = Engine(Path("nginx.conf"), included=False, log=paths.log, run_folder=paths.run, systemd=True)
    rotated = evaluated["all"]["logrotate"]["tsstack"]
    names = [log_name("wiki", 1), log_name("wiki", 10**6), engine.error_log.name]
    assert all((paths.log / name).match(rotated["files"]) for name in names)
    # Before services.nginx's own, which is for *.log, at 1000, and would be refused as a duplicate.
    assert rotated["priority"] < 1000
    assert rotated["ignoreduplicates"]
    assert evaluated["no-monitor"]["logrotate"] == {}

    pid_file = tmp_path / "nginx.pid"
    script = rotated["postrotate"].replace(str(engine.pid_file), str(pid_file))
    subprocess.run(["sh", "-euc", script], check=True)  # nginx does not run
    with subprocess.Popen(["sleep", "60"]) as master:
        pid_file.write_text(f"{master.pid}\n")
        subprocess.run(["sh", "-euc", script], check=True)
        assert master.wait(timeout=30) == -signal.SIGUSR1


def test_a_live_host_is_not_brought_up_again_by_an_upgrade(evaluated: dict[str, dict[str, Any]]) -> None:
    for unit in ("tsstack-early", "tsstack-boot"):
        assert evaluated["all"]["services"][unit]["restartIfChanged"] is False
    assert "restartIfChanged" not in evaluated["all"]["services"]["tsstack-switch"]


def test_the_identity_reaches_every_unit(evaluated: dict[str, dict[str, Any]]) -> None:
    for name, unit in evaluated["identity"]["services"].items():
        assert unit["environment"] == {"SOPS_AGE_KEY_FILE": "/k"}, name


def test_what_the_host_says_of_the_secret_itself_comes_first(
    evaluated: dict[str, dict[str, Any]],
) -> None:
    assert evaluated["own-sops"]["secrets"]["tailscale-authkey"]["key"] == "ts/key"
    assert set(evaluated["no-key"]["secrets"]) == {"tailscale-api-token"}


def test_sops_nix_is_told_which_keys_to_decrypt(evaluated: dict[str, dict[str, Any]]) -> None:
    assert evaluated["sops"]["secrets"] == {
        "tailscale-authkey": {
            "key": "preauthkey",
            "path": "/run/secrets/tailscale-authkey",
            "sopsFile": "a.yaml",
        },
        "tailscale-api-token": {
            "key": "api_token",
            "path": "/run/secrets/tailscale-api-token",
            "sopsFile": "a.yaml",
        },
    }
    assert json.loads(evaluated["sops"]["text"])["tailscale"]["auth_key"] == {
        "file": "/run/secrets/tailscale-authkey"
    }
    assert evaluated["all"]["secrets"] == {}


def build(answer: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the build script of the file as Nix would: in an empty folder, with few variables."""
    (folder / "text").write_text(answer["text"])
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", answer["script"]],
        cwd=folder,
        env={
            "PATH": path,
            "textPath": str(folder / "text"),
            "out": str(folder / "out"),
            "HOME": "/homeless-shelter",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_good_file_is_built(evaluated: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    done = build(evaluated["good"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "out").read_text()) == json.loads(evaluated["good"]["text"])


def test_a_refused_file_is_never_built(evaluated: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    done = build(evaluated["bad"], tmp_path)
    assert done.returncode == 3
    # With the line of the laid-out file, not column 700 of line 1.
    assert re.search(r"tsstack\.yaml:1\d:\d+: error TS205: firewall\.zones\.admin\.sources", done.stdout), (
        done.stdout
    )
    assert not (tmp_path / "out").exists()


def test_the_check_can_be_left_out(evaluated: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert "check" not in evaluated["unchecked"]["script"]
    assert build(evaluated["unchecked"], tmp_path).returncode == 0


# `nginx -V` of nixpkgs' package, what matters of it.
_NIXOS_NGINX = """nginx version: nginx/1.28.0
configure arguments: --with-http_ssl_module --with-http_v2_module --with-http_realip_module --with-threads
--with-http_auth_request_module --with-stream --with-stream_realip_module --with-stream_ssl_module
--error-log-path=/var/log/nginx/error.log --pid-path=/var/log/nginx/nginx.pid --with-http_v3_module
"""


@pytest.mark.parametrize("text", ["", "http { include /nix/store/abc-nginx/conf/mime.types; }\n"])
def test_nginx_of_nixos_is_never_included_into(text: str, tmp_path: Path) -> None:
    """Without services.nginx there is no /etc/nginx; with `enableReload` one that includes no conf.d."""
    from tsstack.parts.proxy.discovery import describe_nginx

    if text:
        (tmp_path / "nginx.conf").write_text(text)
    facts = describe_nginx(_NIXOS_NGINX, tmp_path)
    assert facts is not None
    assert facts.main_config == ""
    assert (facts.stream, facts.stream_module) == (True, "")
    assert facts.http2
    assert facts.http3
    assert facts.auth_request
    assert facts.realip
