"""The rows of benchmarks/switch, each measured beside its alternative."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path

import inputs
from hosts import (
    CHECKOUT,
    PYTHON,
    STATE,
    TSSTACK,
    Broken,
    FoomuuriHost,
    LabHost,
    MeasuredHost,
    OwnHost,
    Run,
    Unavailable,
    differences,
    prepare_foomuuri,
)
from report import Row, Series

NO_OP_TARGET_S = 0.250
HELP_TARGET_S = 0.120
SERVICES_TARGET_S = 1.5
FIREWALL_TARGET_RATIO = 0.6
ADDRESSES_TARGET_RATIO = 1.2
_EXAMPLE = CHECKOUT / "examples" / "kernelcore.yaml"
_BARE = "python -c pass"
_RELOAD = "nginx -t, nginx -s reload"
_UNPROVEN = ", --no-prove"

Command = Callable[[], Run]


def describe_machine() -> dict[str, str]:
    """What the figures were measured on."""
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return {
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, load {load}",
        "python": platform.python_version(),
        "nft": _first_line("nft", "--version"),
        "nginx": _first_line("nginx", "-v"),
    }


def _first_line(*argv: str) -> str:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    return ((done.stdout + done.stderr).strip().splitlines() or ["?"])[0]


def measure(runs: int, *, with_lab: bool, report: Callable[[str], None]) -> list[Row]:
    """All rows. Raises Broken when a measured command fails."""
    rows: list[Row] = []
    report("a host in namespaces of its own: firewall, kernel, proxy")
    with OwnHost() as host:
        rows += _own_host_rows(host, runs)
    report("ten thousand addresses in a zone")
    with OwnHost() as host, OwnHost() as raw:
        rows += _address_rows(host, raw, runs)
    report("a thousand services")
    with OwnHost() as host:
        rows += _service_rows(host, runs)
    if with_lab:
        report("examples/kernelcore.yaml in the lab")
        try:
            with LabHost() as host:
                rows += _lab_rows(host, runs)
        except Unavailable as error:
            rows.append(Row("examples/kernelcore.yaml in the lab", note=str(error)))
    return rows


def _interleave(runs: int, commands: Mapping[str, Command]) -> dict[str, Series]:
    """Each command `runs` times, in turns, so that a busy machine hurts all alike; the first is lost."""
    done = [{name: command() for name, command in commands.items()} for _ in range(runs + 1)][1:]
    return {
        name: Series(tuple(turn[name].wall_s for turn in done), tuple(turn[name].cpu_s for turn in done))
        for name in commands
    }


def _switch(host: MeasuredHost, file: Path, *options: str) -> Run:
    return host.run(TSSTACK, "-c", file, "--json", "switch", *options)


def _settle(host: MeasuredHost, file: Path) -> None:
    """Switch twice: what the first made known of the machine is rendered by then."""
    _switch(host, file)
    _switch(host, file)


def _to_and_fro(host: MeasuredHost, files: tuple[Path, Path], part: str) -> dict[str, Command]:
    """Switches to the other file, which change `part` and nothing else: `ours`, and `unproven`.

    Both take turns with the files, so one must be run after the other. Broken when one does otherwise.
    """
    turns = cycle(files)

    def change(*options: str, proven: bool) -> Run:
        run = _switch(host, next(turns), *options)
        told = json.loads(run.stdout)
        touched = list(told["parts"])
        if touched != [part]:
            raise Broken(f"a change of the {part} alone touched {touched}")
        if ("prove" in told["durations_s"]) != proven:
            raise Broken(f"a change of the {part} was {'not ' if proven else ''}proven")
        return run

    return {
        "ours": lambda: change(proven=True),
        "unproven": lambda: change("--no-prove", proven=False),
    }


def _bare_python(host: MeasuredHost) -> Command:
    return lambda: host.run(PYTHON, "-c", "pass")


def _reload_nginx(host: MeasuredHost) -> Command:
    return lambda: host.run("sh", "-c", "nginx -t -q && nginx -s reload")


def _no_op_row(what: str, host: MeasuredHost, file: Path, runs: int) -> Row:
    """A switch with nothing to do; Broken when it leaves a trace."""
    before = host.still_picture()
    series = _interleave(runs, {"ours": lambda: _switch(host, file), "other": _bare_python(host)})
    if touched := differences(before, host.picture()):
        raise Broken(f"{what}: it touched {', '.join(touched)}")
    files, processes = len(before["files"]), len(before["nginx"])
    proof = f"{files} files, the table's handles and {processes} nginx processes the same"
    return Row(what, series["ours"], _BARE, series["other"], target_s=NO_OP_TARGET_S, note=proof)


def _own_host_rows(host: OwnHost, runs: int) -> list[Row]:
    base = host.write("base.yaml", inputs.host_file())
    rate = host.write("rate.yaml", inputs.with_rate_changed(inputs.host_file()))
    port = host.write("port.yaml", inputs.with_port_opened(inputs.host_file()))
    first = _interleave(
        runs,
        {
            "help": lambda: host.run(TSSTACK, "--help"),
            "check": lambda: host.run(TSSTACK, "-c", base, "check"),
            "bare": _bare_python(host),
        },
    )
    _settle(host, base)
    no_op = _no_op_row("no-op switch: firewall, kernel, proxy", host, base, runs)
    vhost = _interleave(runs, {**_to_and_fro(host, (rate, base), "proxy"), "reload": _reload_nginx(host)})
    _settle(host, base)
    return [
        Row("tsstack --help", first["help"], _BARE, first["bare"], target_s=HELP_TARGET_S),
        Row("tsstack check", first["check"], _BARE, first["bare"]),
        no_op,
        Row("one vhost changed", vhost["ours"], _RELOAD, vhost["reload"]),
        Row(f"one vhost changed{_UNPROVEN}", vhost["unproven"], _RELOAD, vhost["reload"]),
        *_foomuuri_rows("a change of the firewall alone", _to_and_fro(host, (port, base), "firewall"), runs),
    ]


def _foomuuri_rows(what: str, changes: dict[str, Command], runs: int) -> list[Row]:
    """The same zones by foomuuri: `reload` is the target's, `start` renders and loads and nothing else."""
    reload = "foomuuri reload, same zones"
    try:
        root = prepare_foomuuri()
    except Unavailable as error:
        series = _interleave(runs, changes)
        return [
            Row(what, series["ours"], reload, target_ratio=FIREWALL_TARGET_RATIO, note=str(error)),
            Row(f"{what}{_UNPROVEN}", series["unproven"], reload, note=str(error)),
        ]
    with FoomuuriHost(root) as host:
        series = _interleave(
            runs,
            {
                **changes,
                "reload": lambda: host.foomuuri("reload"),
                "start": lambda: host.foomuuri("start"),
            },
        )
        note = host.versions()
    ours = series["ours"]
    return [
        Row(what, ours, reload, series["reload"], target_ratio=FIREWALL_TARGET_RATIO, note=note),
        Row(f"{what}{_UNPROVEN}", series["unproven"], reload, series["reload"], note=note),
        Row(what, ours, "foomuuri start: renders, loads", series["start"], note=note),
    ]


def _address_rows(host: OwnHost, raw: OwnHost, runs: int, count: int = 10_000) -> list[Row]:
    """Ten thousand addresses against `nft -f` of the table that was rendered of them."""
    one = host.write("one.yaml", inputs.many_addresses(count, last="10.255.0.1"))
    two = host.write("two.yaml", inputs.many_addresses(count, last="10.255.0.9"))
    _settle(host, one)
    table = raw.write("table.nft", host.copy_out(f"{STATE}/current/nftables/tsstack.nft"))
    activations_s: list[float] = []
    changes = _to_and_fro(host, (two, one), "firewall")

    def change_and_note() -> Run:
        run = changes["ours"]()
        activations_s.append(json.loads(run.stdout)["durations_s"]["activate firewall"])
        return run

    loaded = {**changes, "ours": change_and_note, "nft": lambda: raw.run("nft", "-f", table)}
    series = _interleave(runs, loaded)
    _settle(host, one)
    nothing = _interleave(
        runs, {"ours": lambda: _switch(host, one), "nft": lambda: raw.run("nft", "-f", table)}
    )
    what, other, target = f"{count:,} addresses in a zone", "nft -f, same table", ADDRESSES_TARGET_RATIO
    activation = Series(tuple(activations_s[1:]))
    return [
        Row(f"{what}: activation", activation, other, series["nft"], target_ratio=target),
        # The target is of the load; a whole switch reads the file, renders and proves as well.
        Row(f"{what}: whole switch", series["ours"], other, series["nft"]),
        Row(f"{what}: whole switch{_UNPROVEN}", series["unproven"], other, series["nft"]),
        Row(f"{what}: no-op switch", nothing["ours"], other, nothing["nft"]),
    ]


def _service_rows(host: OwnHost, runs: int, count: int = 1_000) -> list[Row]:
    """A thousand vhosts: all of them at once, one of them changed, none."""
    many = inputs.many_services(count)
    base = host.write("many.yaml", many)
    rate = host.write("rate.yaml", inputs.with_rate_changed(many))
    none = host.write("none.yaml", inputs.many_services(1))

    def all_new(*options: str) -> Run:
        _switch(host, none, "--no-prove")
        return _switch(host, base, *options)

    _settle(host, base)
    series = _interleave(
        runs, {"all": all_new, "unproven": lambda: all_new("--no-prove"), "reload": _reload_nginx(host)}
    )
    changed = _interleave(runs, {**_to_and_fro(host, (rate, base), "proxy"), "reload": _reload_nginx(host)})
    _settle(host, base)
    what, target = f"{count:,} services", SERVICES_TARGET_S
    return [
        Row(f"{what}, all new", series["all"], _RELOAD, series["reload"], target_s=target),
        Row(f"{what}, all new{_UNPROVEN}", series["unproven"], _RELOAD, series["reload"]),
        Row(f"{what}, one changed", changed["ours"], _RELOAD, changed["reload"], target_s=target),
        Row(f"{what}, one changed{_UNPROVEN}", changed["unproven"], _RELOAD, changed["reload"]),
        _no_op_row(f"{what}, no-op switch", host, base, runs),
    ]


def _lab_rows(host: MeasuredHost, runs: int) -> list[Row]:
    """The whole example on a node of a real tailnet."""
    files = {name: Path(f"/run/tsstack-benchmark-{name}.yaml") for name in ("rate", "port")}
    text = _EXAMPLE.read_text()
    changed = {"rate": inputs.with_rate_changed(text), "port": inputs.with_port_opened(text)}
    for name, file in files.items():
        host.run("sh", "-c", 'printf %s "$1" >"$2"', "write", changed[name], file)
    what = "examples/kernelcore.yaml on its tailnet"
    _settle(host, _EXAMPLE)
    no_op = _no_op_row(f"no-op switch: {what}", host, _EXAMPLE, runs)
    vhost = _interleave(
        runs, {**_to_and_fro(host, (files["rate"], _EXAMPLE), "proxy"), "reload": _reload_nginx(host)}
    )
    _settle(host, _EXAMPLE)
    return [
        no_op,
        Row(f"one vhost changed: {what}", vhost["ours"], _RELOAD, vhost["reload"]),
        Row(f"one vhost changed: {what}{_UNPROVEN}", vhost["unproven"], _RELOAD, vhost["reload"]),
        *_foomuuri_rows(
            f"a change of the firewall alone: {what}",
            _to_and_fro(host, (files["port"], _EXAMPLE), "firewall"),
            runs,
        ),
    ]
