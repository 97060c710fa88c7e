"""What the runs of hostile files have found once; and that those runs can find what they look for."""

from __future__ import annotations

import copy
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_inputs import Generator, Input, at
from hostile_judge import FILE, MACHINES, Judge
from hostile_session import judge_behind_the_model, seed_texts
from hostile_shapes import Malformed, lines_shape, nginx_shape
from hostile_words import FULL

from tsstack import assets
from tsstack.errors import CheckFailed, ConfigError
from tsstack.model.document import parse_document
from tsstack.model.facts import Facts
from tsstack.model.keypath import format_path
from tsstack.model.loader import load_presets, parse_stack
from tsstack.model.stack import Stack
from tsstack.parts.firewall import text as nft_text
from tsstack.parts.firewall.desired import desired
from tsstack.parts.kernel import desired as kernel
from tsstack.parts.proxy import desired as proxy
from tsstack.parts.proxy import wall
from tsstack.parts.registry import all_parts
from tsstack.switch.intent import render_loaded

PRESETS = load_presets(assets.folder("zones"))


def with_value(path: tuple[str | int, ...], value: Any) -> bytes:
    tree = copy.deepcopy(FULL)
    at(tree, path[:-1])[path[-1]] = value
    return json.dumps(tree, indent=1).encode()


def errors_at(path: tuple[str | int, ...], value: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_stack(with_value(path, value), FILE, PRESETS)
    return [found.path for found in caught.value.findings if found.severity == "error"]


ADDRESSES = [
    ("dns", "split", "tail.test", 0),
    ("proxy", "listen", 0),
    ("firewall", "zones", "dmz", "sources", 0),
    ("tailscale", "advertise", "routes", 0),
    ("monitor", "targets", 0, "icmp"),
]


@pytest.mark.parametrize("path", ADDRESSES, ids=format_path)
@pytest.mark.parametrize("value", ["fe80::1%eth0", 'fe80::1%"; } x', "fe80::1%a\nb", "fe80::%{};/64"])
def test_an_address_with_a_scope_is_refused(path: tuple[str | int, ...], value: str) -> None:
    """Python's ipaddress takes any text whatever behind the percent sign."""
    assert errors_at(path, value) == [format_path(path)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("proxy", "status"), "127.0.0.1:\uff19180"),
        (("proxy", "status"), "127.0.0.\u0661:9180"),
        (("monitor", "metrics"), "127.0.0.1:\uff19464"),
        (("monitor", "targets", 1, "tcp"), "example.org:\uff1443"),
        (("monitor", "interval"), "\uff13s"),
        (("monitor", "max_loss"), "\u0665%"),
        (("firewall", "zones", "dmz", "tcp", 1), "9\uff10-95"),
        (("proxy", "services", "plain", "upstream"), "\uff18010"),
        (("proxy", "services", "ollama", "rate_limit"), "\uff12r/s"),
        (("proxy", "services", "ollama", "max_body_size"), "\u0967M"),
        (("bandwidth", "eth0", "egress"), "\uff18mbit"),
        (("bandwidth", "eth0", "burst"), "\uff18kbit"),
    ],
)
def test_digits_of_other_scripts_are_no_digits(path: tuple[str | int, ...], value: str) -> None:
    assert errors_at(path, value) == [format_path(path)]


@pytest.mark.parametrize("value", ["127.999.0.1:80", "127.0.0.1:99999", "127.0.0.1:0", "127.0.0.1:00080"])
def test_a_status_address_that_is_none_is_refused(value: str) -> None:
    assert errors_at(("proxy", "status"), value) == ["proxy.status"]
    assert errors_at(("monitor", "metrics"), value) == ["monitor.metrics"]


@pytest.mark.parametrize("value", [" ", "\t", " \t ", ""])
def test_a_kernel_parameter_of_blanks_alone_is_refused(value: str) -> None:
    path = ("kernel", "sysctl", "net.core.default_qdisc")
    assert errors_at(path, value) == [format_path(path)]


def test_a_hint_shows_no_character_that_a_terminal_obeys() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_stack(with_value(("firewall", "services", "mine"), "tcp/1\u202e\u2066\x1b[2J"), FILE, PRESETS)
    said = [str(found) for found in caught.value.findings if found.code == "TS103"]
    assert said
    assert all(line.isprintable() for line in said)


def test_a_name_of_thousands_of_letters_is_cut_in_messages() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_stack(b"host: {name: a}\n? " + b"a" * 10_000 + b"\n: 1\n", FILE, PRESETS)
    assert all(len(str(found)) < 500 for found in caught.value.findings)


def test_what_the_renderers_refuse_has_its_place() -> None:
    tree = copy.deepcopy(FULL)
    tree["proxy"]["services"]["plain"]["upstream"] = "127.0.0.1:443"
    loaded = parse_stack(json.dumps(tree, indent=1).encode(), FILE, PRESETS)
    facts = MACHINES[0]
    assert facts is not None
    with pytest.raises(CheckFailed) as caught:
        render_loaded(loaded, facts, all_parts())
    line = loaded.place("proxy.services.plain.upstream")[1]
    assert line > 1
    assert caught.value.message.startswith(f"{FILE}:{line}:")


def sysctl_file(name: str, value: str) -> str:
    stack = Stack.model_validate({"host": {"name": "a"}})
    changed = stack.kernel.model_copy(update={"sysctl": {name: value}})
    return kernel.render(stack.model_copy(update={"kernel": changed}), Facts())["kernel/sysctl.conf"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("# net.ipv4.x", "1"), ("-net.ipv4.x", "1"), (";x", "1"), ("net.ipv4.x\n", "1"), ("net.ipv4.x", "")],
)
def test_no_line_of_the_sysctl_file_can_be_read_otherwise(name: str, value: str) -> None:
    """Whatever the model let through: this is the second wall."""
    with pytest.raises(ValueError, match="not a kernel parameter"):
        sysctl_file(name, value)


def test_a_value_of_two_lines_stays_one_setting() -> None:
    with pytest.raises(ValueError, match="not a kernel parameter"):
        sysctl_file("net.ipv4.x", "1\nnet.ipv4.ip_forward = 1")
    assert lines_shape(sysctl_file("net.ipv4.x", "1\n2")) == {("setting",): 1}


def work_s(action: Callable[[int], object], size: int) -> float:
    spent = []
    for _ in range(3):
        started_s = time.process_time()
        action(size)
        spent.append(time.process_time() - started_s)
    return min(spent)


def parse(source: str) -> None:
    try:
        parse_stack(source.encode(), FILE, PRESETS)
    except ConfigError:
        return


def pairs_in_one_line(size: int) -> None:
    parse_document(("{a: [" + ", ".join(['"\\ud83d\\ude00"'] * size) + "]}").encode(), "f")


def unknown_keys_with_merges(size: int) -> None:
    parse("host: {name: a}\nx: &x {a: 1}\n" + "\n".join(f"y{n}: {{<<: *x}}" for n in range(size)))


def secrets(size: int) -> None:
    parse("host: {name: a}\nx: [" + ", ".join(["tskey-auth-a"] * size) + "]")


def zones(size: int) -> None:
    named = {f"z{n}": {"interfaces": [f"i{n}"]} for n in range(size)}
    stack = Stack.model_validate({"host": {"name": "a"}, "firewall": {"zones": named}})
    assert desired(stack, Facts())


@pytest.mark.parametrize(
    ("action", "size"),
    [(pairs_in_one_line, 1500), (unknown_keys_with_merges, 500), (secrets, 700), (zones, 600)],
)
def test_eight_times_as_much_is_not_sixty_four_times_the_work(
    action: Callable[[int], object], size: int
) -> None:
    """Each of these took its time squared: some 300 KiB of file kept `check` busy for a minute."""
    assert work_s(action, size * 8) < 30 * work_s(action, size)


def behind(count: int) -> Judge:
    judge = Judge()
    judge_behind_the_model(judge, random.Random(1), count)  # noqa: S311
    return judge


def test_the_walls_behind_the_model_hold() -> None:
    judge = behind(80)
    assert judge.tally.faults == []
    assert judge.tally.behind_the_model["refused"] > 10
    assert judge.tally.behind_the_model["harmless"] > 10


def test_a_broken_wall_of_the_templates_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall, "_ALLOWED", re.compile(".*", re.DOTALL))
    wall._admit.cache_clear()
    faults = behind(160).tally.faults
    wall._admit.cache_clear()
    assert len(faults) >= 2
    assert {fault["kind"] for fault in faults} == {"injected"}


def test_one_value_that_a_template_writes_past_the_wall_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in (assets.folder("templates") / "nginx").glob("*.j2"):
        text = path.read_text().replace("listen {{ status }};", "listen {{ status | safe }};")
        (tmp_path / path.name).write_text(text)
    real = proxy.render_proxy
    monkeypatch.setattr(proxy, "render_proxy", lambda stack, facts, _: real(stack, facts, tmp_path))
    judge = Judge()
    stack = parse_stack(json.dumps(FULL).encode(), FILE, PRESETS).stack
    judge.behind_the_model(stack, MACHINES[0], "127.0.0.1:9180", "127.0.0.1:9180; include /etc/passwd")
    (fault,) = judge.tally.faults
    assert "include" in fault["what"]


def test_an_unquoted_comment_and_a_name_past_the_wall_of_nft_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack = parse_stack(json.dumps(FULL).encode(), FILE, PRESETS).stack
    word = 'dmz" drop comment "'

    def judged() -> Judge:
        judge = Judge()
        judge.behind_the_model(stack, MACHINES[0], "dmz", word)
        return judge

    assert judged().tally.behind_the_model["refused"] == 1
    monkeypatch.setattr(nft_text, "_IDENTIFIER", re.compile(".*", re.DOTALL))
    monkeypatch.setattr(nft_text, "_UNQUOTABLE", re.compile("(?!)"))
    (fault,) = judged().tally.faults
    assert fault["kind"] == "injected"


def test_a_traceback_a_lost_place_and_an_unsafe_word_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from hostile_judge import Judge as Fresh

    source = json.dumps(FULL).encode()
    judge = Fresh()
    monkeypatch.setattr("hostile_judge.lint", lambda loaded, facts: {}["no such key"])
    judge.judge(Input("a test", source))
    monkeypatch.undo()
    monkeypatch.setattr("tsstack.model.names._without_scope", lambda text: text)
    judge.judge(Input("a test", with_value(("dns", "split", "tail.test", 0), "fe80::1%;x")))
    assert [fault["kind"] for fault in judge.tally.faults] == ["traceback", "unsafe word"]


def test_the_shape_of_a_configuration_is_read_as_nginx_reads_it() -> None:
    plain = nginx_shape('a "b;c" d\\;e;\nf { g ${h}i; # {\n }')
    assert plain == {("a +2 ;",): 1, ("f +0 {}",): 1, ("f", "g +1 ;"): 1}
    for torn in ("a", "a {", "}", "a }", 'a "b', "{ }", ";", 'a "b"c;'):
        with pytest.raises(Malformed):
            nginx_shape(torn)


def test_the_same_seed_gives_the_same_files() -> None:
    first, second = (list(Generator(7, seed_texts()).inputs(60)) for _ in range(2))
    assert first == second
    assert len({given.kind for given in first}) >= 7
