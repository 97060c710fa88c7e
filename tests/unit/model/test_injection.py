"""No text of the file can become syntax, and no file whatever gives anything but a stack or a refusal."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsstack import assets
from tsstack.errors import ConfigError
from tsstack.model.lint import lint
from tsstack.model.loader import LoadedStack, load_presets, parse_stack

PRESETS = load_presets(assets.folder("zones"))
EXAMPLE = (assets.folder("examples") / "kernelcore.yaml").read_bytes()
HERE = Path("/etc/tsstack/tsstack.yaml")

# Every key of the file that takes a text, at least once.
FULL: dict[str, Any] = {
    "host": {"name": "kernelcore", "tailnet": "tail.test", "uplink": "eth0"},
    "secrets": {"file": "/etc/tsstack/secrets.yaml"},
    "tailscale": {
        "login_server": "https://hs.example.com",
        "auth_key": {"secret": "authkey"},
        "tags": ["tag:server"],
        "netfilter": "on",
        "operator": "alice",
        "advertise": {"routes": ["192.168.15.0/24"]},
        "exit_node": {"use": ["exit-a"], "otherwise": "block"},
    },
    "proxy": {
        "names": "subdomain",
        "tls": {"certificate": "/etc/c.pem", "key": "/etc/k.pem"},
        "listen": ["127.0.0.1"],
        "status": "127.0.0.1:9180",
        "services": {
            "ollama": {
                "upstream": ["http://127.0.0.1:8080", "unix:/run/a.sock backup"],
                "protocol": "http",
                "subdomain": "ai",
                "path": "/ai",
                "rate_limit": "20r/s",
                "max_body_size": "1M",
                "connect_timeout": "5s",
                "read_timeout": "1m",
                "allow": ["alice@example.com", "tag:client"],
            }
        },
    },
    "firewall": {
        "default_policy": "drop",
        "services": {"mine": ["tcp/11434"]},
        "zones": {
            "dmz": {
                "preset": "dmz",
                "interfaces": ["eth0", "veth*"],
                "sources": ["10.0.0.0/8"],
                "tcp": ["80-90"],
                "udp": ["53"],
                "services": ["ssh"],
                "allow": "all",
            },
            "lan": {"interfaces": ["eth1"]},
        },
        "forward": [{"from": "lan", "to": "dmz", "services": ["https"], "tcp": ["80"], "udp": ["53"]}],
    },
    "dns": {"split": {"tail.test": ["100.100.100.100"]}},
    "kernel": {"profile": "none", "sysctl": {"net.core.default_qdisc": "fq"}},
    "bandwidth": {"eth0": {"egress": "10mbit", "burst": "32kbit", "latency": "400ms"}},
    "monitor": {
        "interval": "30s",
        "max_loss": "5%",
        "targets": [{"icmp": "1.1.1.1"}, {"tcp": "example.org:443"}, {"https": "https://example.org/x"}],
        "alerts": ["ntfy://topic", {"command": ["/usr/bin/page", "--loud"]}],
        "metrics": "127.0.0.1:9464",
    },
}

# An alert's address and a command's arguments go to a library and to execve, never into a text of an
# engine. All other texts keep to this.
FREE = (
    ("monitor", "alerts", 0),
    ("monitor", "alerts", 1, "command", 0),
    ("monitor", "alerts", 1, "command", 1),
)
SAFE = re.compile(r"[A-Za-z0-9._:/@%?&=+~*\[\] \t-]*")
SYNTAX = "\"'`{}();$\\<>|&#!\n\r\t\0\x7f "


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from leaves(below, (*path, index))
    else:
        yield path


def mappings(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        yield path
        for key, below in value.items():
            yield from mappings(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from mappings(below, (*path, index))


def replaced(path: tuple[str | int, ...], text: str) -> dict[str, Any]:
    data = copy.deepcopy(FULL)
    *above, last = path
    node: Any = data
    for step in above:
        node = node[step]
    node[last] = text
    return data


def load(data: Any) -> LoadedStack:
    return parse_stack(json.dumps(data).encode(), HERE, PRESETS)


LEAVES = sorted(leaves(FULL), key=str)
hostile = st.one_of(
    st.text(alphabet=SYNTAX + "ab1.", max_size=12),
    st.text(max_size=20),
    st.builds(
        "{}{}".format,
        st.sampled_from(["eth0", "80", "a", "/x", "1s", "10.0.0.0/8"]),
        st.text(SYNTAX, min_size=1),
    ),
)


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield key
            yield from texts(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from texts(below)
    elif isinstance(value, str):
        yield value


def test_the_full_file_is_valid() -> None:
    assert load(FULL).stack.proxy is not None


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
@settings(max_examples=15, deadline=None)
@given(text=hostile)
def test_a_hostile_text_is_refused_with_its_place_or_harmless(path: tuple[str | int, ...], text: str) -> None:
    try:
        loaded = load(replaced(path, text))
    except ConfigError as error:
        assert all(finding.line >= 1 and finding.column >= 1 and finding.file for finding in error.findings)
        assert all("\n" not in str(finding) for finding in error.findings)
        return
    if path not in FREE:
        assert all(
            SAFE.fullmatch(said) for said in texts(loaded.stack.model_dump(mode="json", exclude={"monitor"}))
        )
        assert SAFE.fullmatch(text)
        assert "\n" not in text
    else:
        assert text.isprintable() or not re.search(r"[\x00-\x1f\x7f]", text)


@pytest.mark.parametrize("path", sorted(mappings(FULL), key=str), ids=lambda path: ".".join(map(str, path)))
@settings(max_examples=10, deadline=None)
@given(text=hostile)
def test_a_hostile_key_is_refused_or_harmless(path: tuple[str | int, ...], text: str) -> None:
    data = copy.deepcopy(FULL)
    node: Any = data
    for step in path:
        node = node[step]
    if text in node:
        return
    node[text] = next(iter(node.values()))
    try:
        loaded = load(data)
    except ConfigError as error:
        assert all("\n" not in str(finding) for finding in error.findings)
        return
    assert SAFE.fullmatch(text)
    assert all(
        SAFE.fullmatch(said) for said in texts(loaded.stack.model_dump(mode="json", exclude={"monitor"}))
    )


@pytest.mark.parametrize("tail", ['"; }', "'", "{", "}", ";", "\n", "$x", "\\", "`id`", "$(id)", "#", "\0"])
@pytest.mark.parametrize(
    "path", [path for path in LEAVES if path not in FREE], ids=lambda p: ".".join(map(str, p))
)
def test_syntax_behind_a_good_value_is_always_refused(path: tuple[str | int, ...], tail: str) -> None:
    good: Any = FULL
    for step in path:
        good = good[step]
    with pytest.raises(ConfigError):
        load(replaced(path, f"{good}{tail}"))


def judge(source: bytes) -> None:
    try:
        loaded = parse_stack(source, HERE, PRESETS)
    except ConfigError as error:
        assert error.findings
        for finding in error.findings:
            assert finding.file
            assert finding.code.startswith("TS")
            assert "\n" not in str(finding)
        return
    for finding in lint(loaded, None):
        assert finding.line >= 1


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_a_stack_or_a_refusal(source: bytes) -> None:
    judge(source)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab:-[]{},&*!|>'\"%@#?<~ \n\t0.1", max_size=60))
def test_random_yaml_gives_a_stack_or_a_refusal(text: str) -> None:
    judge(text.encode())


@settings(max_examples=150, deadline=None)
@given(
    start=st.integers(0, len(EXAMPLE)),
    length=st.integers(0, 40),
    put=st.one_of(
        st.binary(max_size=8), st.sampled_from([b"*x", b"&x ", b"<<: ", b"- ", b": ", b"{", b"]", b"~", b"'"])
    ),
)
def test_a_damaged_example_gives_a_stack_or_a_refusal(start: int, length: int, put: bytes) -> None:
    judge(EXAMPLE[:start] + put + EXAMPLE[start + length :])


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(LEAVES), value=json_values)
def test_a_value_of_any_type_anywhere_gives_a_stack_or_a_refusal(
    path: tuple[str | int, ...], value: Any
) -> None:
    judge(json.dumps(replaced(path, value)).encode())


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(sorted(mappings(FULL), key=str)), value=json_values)
def test_a_section_of_any_type_gives_a_stack_or_a_refusal(path: tuple[str | int, ...], value: Any) -> None:
    judge(json.dumps(replaced(path, value) if path else value).encode())
