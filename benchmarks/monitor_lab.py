"""Real faults in a lab: how long a client's traffic stays away, with the monitor and with tailscaled alone.

A client on the host opens a new connection to the internet ten times a second. Counted is the time from the
fault to the first of thirty good connections in a row. `name`: the exit node is chosen by name and nobody
watches. `auto:any`: tailscaled chooses. A run that does not end in time is censored: its time is the limit,
at least.

Runs are appended to the file of --out, one JSON object on a line, and what is there is not run again: end it
and go on another day. Needs root and the lab's engines.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from monitor_bed import FIRST_ADDRESS, FIRST_ADDRESS6, INTERNET, INTERNET6, PATIENCE_S, Bed, Client

WHO = ("monitor", "name", "auto:any")
FAULTS: dict[str, dict[str, Any]] = {
    "cut": {"target_s": 8.0},
    "uplink": {"target_s": 8.0},
    "kill": {"target_s": 8.0},
    "loss": {"target_s": 40.0, "amount": 30},
    # 150 ms above the limit of 100 ms; with it a connection takes 250 ms and more.
    "delay": {"target_s": 10.0, "amount": 250, "limit_s": 0.2, "given": {"max_latency": "100ms"}},
}
SETTLE_S = 8.0
_WITHIN_S = 30.0


_ENDS = (signal.SIGTERM, signal.SIGHUP)


def main(words: list[str] | None = None) -> int:
    """Run with these words of the command line. Returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of each fault")
    parser.add_argument(
        "--alone", type=int, default=None, help="runs without the monitor (default: as --runs)"
    )
    parser.add_argument("--ipv6", action="store_true", help="the client connects by IPv6")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a run is censored")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--who", nargs="+", choices=WHO, default=list(WHO))
    parser.add_argument("--out", type=Path, default=Path("monitor-lab.jsonl"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    counts = {
        who: options.runs if who == "monitor" or options.alone is None else options.alone for who in WHO
    }
    rows = read_rows(options.out)
    missing = [
        (fault, who)
        for number in range(max(counts.values()))
        for fault in options.faults
        for who in options.who
        if number >= len(of(rows, fault, who)) and number < counts[who]
    ]
    if missing:
        run_all(missing, options.limit, options.out, ipv6=options.ipv6)
    result = summarise(read_rows(options.out), options.faults, options.who)
    print(json.dumps(result, indent=1) if options.json else as_text(result))
    return 0 if all(row["met"] is not False for row in result) else 1


def of(rows: list[dict[str, Any]], fault: str, who: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["fault"], row["who"]) == (fault, who)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What was measured so far; a line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def run_all(wanted: list[tuple[str, str]], limit_s: float, out: Path, *, ipv6: bool) -> None:
    """One lab for all; it is healed between the runs."""
    for end in _ENDS:  # an end from outside takes the lab down too
        signal.signal(end, lambda *_: sys.exit(1))
    with Bed.up() as bed, bed.client(INTERNET6 if ipv6 else INTERNET) as client:
        for number, (fault, who) in enumerate(wanted):
            row = run_one(bed, client, fault, who, limit_s)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{number + 1}/{len(wanted)} {fault} {who}: {row['away_s']}", file=sys.stderr)
            client.attempts.clear()


def run_one(bed: Bed, client: Client, fault: str, who: str, limit_s: float) -> dict[str, Any]:
    """One fault, from a host that is well to one that is well again."""
    how = FAULTS[fault]
    forget(bed)
    if who == "monitor":
        bed.use("exit-b")
        with bed.monitor(**how.get("given", {})) as daemon:
            row = hurt(bed, client, fault, how, limit_s)
            row["why"] = daemon.state()["exit"]["why"]
    elif who == "name":
        bed.use("exit-b")
        row = hurt(bed, client, fault, how, limit_s)
    else:
        let_choose(bed)
        row = hurt(bed, client, fault, how, limit_s)
    return {"fault": fault, "who": who, "limit_s": limit_s, **row}


def let_choose(bed: Bed) -> None:
    """Tailscaled's own choice, made to begin with the node that is hurt."""
    bed.use("exit-b")
    bed.host.run(["tailscale", "set", "--exit-node=auto:any"])


def hurt(bed: Bed, client: Client, fault: str, how: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """From well to hurt, and how long until traffic flows again; healed afterwards."""
    if client.await_flow(time.time(), within_s=_WITHIN_S) is None:
        raise RuntimeError("the client's traffic does not flow before the fault")
    time.sleep(SETTLE_S)
    node = "exit-b" if client.attempts[-1].by in {FIRST_ADDRESS, FIRST_ADDRESS6} else "client-1"
    leaked = bed.leaked()
    bed.lab.fault(fault, node, amount=how.get("amount", 0))
    at = time.time()
    # Good is what a person would call so: quick, and of the lossy node, steadily.
    since = client.await_flow(at, within_s=limit_s, limit_s=how.get("limit_s", PATIENCE_S))
    row = {
        "node": node,
        "away_s": None if since is None else round(since - at, 2),
        "lost": client.lost_since(at),
        "leaked": bed.leaked() - leaked,
    }
    bed.lab.heal()
    return row


def forget(bed: Bed) -> None:
    """What an earlier run taught the monitor is none of this one's."""
    bed.host.path("/var/lib/tsstack/monitor/state.json").unlink(missing_ok=True)


def summarise(rows: list[dict[str, Any]], faults: list[str], who: list[str]) -> list[dict[str, Any]]:
    """A row for each fault and each of who: p50 and p95, censored runs as the limit."""
    found = []
    for fault in faults:
        for each in who:
            runs = of(rows, fault, each)
            if not runs:
                continue
            times = sorted(row["limit_s"] if row["away_s"] is None else row["away_s"] for row in runs)
            p95 = times[min(len(times) - 1, round(0.95 * (len(times) - 1) + 0.4999))]
            target = FAULTS[fault]["target_s"] if each == "monitor" else None
            found.append(
                {
                    "fault": fault,
                    "who": each,
                    "runs": len(times),
                    "limit_s": max(row["limit_s"] for row in runs),
                    "censored": sum(row["away_s"] is None for row in runs),
                    "p50_s": times[len(times) // 2],
                    "p95_s": p95,
                    "most_s": times[-1],
                    "leaked": sum(row["leaked"] for row in runs),
                    "target_s": target,
                    "met": None if target is None else p95 <= target,
                }
            )
    return found


def as_text(result: list[dict[str, Any]]) -> str:
    """The rows for people."""
    head = ("fault", "who", "runs", "p50", "p95", "most", "censored", "leaked", "target", "")
    table = [head]
    for row in result:
        over = ">=" if row["censored"] else ""
        half = ">=" if row["p50_s"] >= row["limit_s"] else ""
        met = {True: "met", False: "MISSED", None: ""}[row["met"]]
        table.append(
            (
                *(row["fault"], row["who"], str(row["runs"]), f"{half}{row['p50_s']:.1f} s"),
                *(f"{over}{row['p95_s']:.1f} s", f"{over}{row['most_s']:.1f} s", str(row["censored"])),
                *(str(row["leaked"]), f"{row['target_s']:.0f} s" if row["target_s"] else "", met),
            )
        )
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines)
