"""Judges what becomes of a hostile file: a refusal with its place, or texts without a foreign statement."""

from __future__ import annotations

import json
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hostile_inputs import Input
from hostile_shapes import (
    Listing,
    Malformed,
    Shape,
    lines_shape,
    nft_listing,
    nginx_names,
    nginx_shape,
)
from hostile_words import FULL
from pydantic import BaseModel

from tsstack import assets
from tsstack.errors import CheckFailed, ConfigError, Finding, TsstackError
from tsstack.model.facts import Facts, NginxFacts, Paths, TailscaleFacts
from tsstack.model.lint import lint
from tsstack.model.loader import Presets, load_presets, parse_stack
from tsstack.model.stack import Stack
from tsstack.parts.firewall.desired import build_table
from tsstack.parts.firewall.library import NftError, Session
from tsstack.parts.registry import all_parts
from tsstack.switch.intent import render, render_loaded

FILE = Path("/etc/tsstack/tsstack.yaml")
LIMIT_S = 2.0
NFT = "nftables/tsstack.nft"
# Characters that all the languages that we render take for parts of a word.
_UNHARMFUL = re.compile(r"[^A-Za-z0-9._:/@*-]")
# Every text of an accepted file, but for an alert's address and a command's words, which go to a library and
# to execve(2) and into no engine's text.
_SAFE = re.compile(r"[A-Za-z0-9._:/@%?&=+~*\[\] \t-]*")
_PLACED = re.compile(rf"{FILE}:[1-9]\d*:[1-9]\d*")
_FIRST_WORD = re.compile(r"^\s*([a-z_0-9]+)\b", re.MULTILINE)
_TEMPLATE_SYNTAX = re.compile(r"\{%.*?%\}|\{#.*?#\}", re.DOTALL)

_DEBIAN = NginxFacts(
    (1, 22, 1),
    stream_module="/usr/lib/nginx/modules/ngx_stream_module.so",
    main_config="/etc/nginx/nginx.conf",
    stream_loaded=True,
    modules_enabled=True,
    directives=("events", "http", "pid", "user"),
    default_servers=("80", "[::]:80"),
)
_TAILNET = TailscaleFacts(
    (1, 102, 3), "Running", ("100.64.0.1", "fd7a:115c:a1e0::1"), "kernelcore.tail.test.", "tail.test"
)
_INTERFACES = ("br-guest", "eth0", "eth1", "lo", "tailscale0")
MACHINES: tuple[Facts | None, ...] = (
    Facts(_INTERFACES, "eth0", _DEBIAN, _TAILNET, (6, 1), True, True),
    Facts(_INTERFACES, "eth0", NginxFacts((1, 27, 4), http3=True), None, (6, 12)),
    Facts(),
)


@dataclass
class Tally:
    """The counts of a run. `faults` are those of tsstack, each with what shows it."""

    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    accepted: int = 0
    rendered: int = 0
    refused_by_renderer: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    accepted_kinds: Counter[str] = field(default_factory=Counter)
    twins: int = 0
    nft_loaded: int = 0
    nginx_tried: int = 0
    refused_by_engine: Counter[str] = field(default_factory=Counter)
    behind_the_model: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    faults: list[dict[str, Any]] = field(default_factory=list)


class Judge:
    """Runs inputs through loader, lint and renderers. With `engines` (root, a network namespace of our own)

    nft loads what is rendered and tells what it holds, and nginx tries every `nginx_every`-th text.
    """

    def __init__(self, *, engines: bool = False, nginx_every: int = 20) -> None:
        self.presets = load_presets(assets.folder("zones"))
        self.parts = all_parts()
        self.tally = Tally()
        self.engines = engines
        self.nginx_every = nginx_every
        self.vocabulary = _vocabulary()
        self._with_nginx = 0
        self._seen: set[int] = set()

    def judge(self, given: Input) -> None:
        """One input; what is wrong with tsstack's answer is added to the tally."""
        tally = self.tally
        tally.inputs += 1
        tally.kinds[given.kind] += 1
        started_s = time.process_time()
        try:
            self._judge(given)
        except MemoryError:
            self._fault(given, "memory", "the input needs more memory than the bound")
        except Exception:  # noqa: BLE001  that is what we look for: a traceback
            self._fault(given, "traceback", traceback.format_exc(limit=-6))
        spent_s = time.process_time() - started_s
        if spent_s > tally.slowest_s:
            tally.slowest_s, tally.slowest = spent_s, given.kind
        if spent_s > LIMIT_S:
            self._fault(given, "slow", f"{spent_s:.1f} s of processor time")

    def _fault(self, given: Input, kind: str, what: str) -> None:
        shown = given.source if len(given.source) < 20_000 else given.source[:20_000]
        self.tally.faults.append(
            {"kind": kind, "input": given.kind, "what": what, "source": shown.decode("latin-1")}
        )

    def _judge(self, given: Input) -> None:
        tally = self.tally
        facts = MACHINES[tally.inputs % len(MACHINES)]
        try:
            loaded = parse_stack(given.source, FILE, self.presets)
        except ConfigError as error:
            self._refused(given, error.findings, error)
            return
        # Without facts too: a file is judged on other machines as well.
        for known in (None, facts):
            findings = lint(loaded, known)
            if any(finding.severity == "error" for finding in findings):
                self._refused(given, findings, None)
                return
        self._well_told(given, findings)
        self._holds_safe_words(given, loaded.stack)
        tally.accepted += 1
        tally.accepted_kinds[given.kind] += 1
        assert facts is not None
        try:
            tree = render_loaded(loaded, facts, self.parts)
        except TsstackError as error:
            place, _, words = error.message.partition(": ")
            tally.refused_by_renderer[re.sub(r"'[^']*'|\d+", "..", words)[:110]] += 1
            if not _PLACED.fullmatch(place):
                self._fault(given, "no place", f"refused while rendering: {error.message}")
            return
        tally.rendered += 1
        self._examine(given, loaded.stack, facts, tree)

    def _refused(self, given: Input, findings: tuple[Finding, ...], error: ConfigError | None) -> None:
        self.tally.refused += 1
        if not any(finding.severity == "error" for finding in findings):
            self._fault(given, "no place", f"refused without an error: {error}")
        self._well_told(given, findings)

    def _well_told(self, given: Input, findings: tuple[Finding, ...]) -> None:
        for finding in findings:
            self.tally.codes[finding.code] += 1
            said = str(finding)
            if not (finding.file and finding.line >= 1 and finding.column >= 1):
                self._fault(given, "no place", said)
            if not said.isprintable():
                self._fault(given, "unprintable", ascii(said))
            if len(said) > 1500:
                self._fault(given, "long-winded", f"{len(said)} characters: {said[:200]}")
            said.encode()  # what cannot be encoded cannot be printed

    def _holds_safe_words(self, given: Input, stack: Stack) -> None:
        free = {"monitor": {"alerts"}}
        strange = [
            word for word in _texts(stack.model_dump(mode="json", exclude=free)) if not _SAFE.fullmatch(word)
        ]
        if strange or any(word.startswith("-") for word in _argv_words(stack)):
            self._fault(given, "unsafe word", f"accepted: {strange}")

    def _examine(self, given: Input, stack: Stack, facts: Facts, tree: Mapping[str, str]) -> None:
        key = hash(tuple(sorted(tree.items())))
        if key in self._seen:
            return
        self._seen.add(key)
        try:
            shapes = shapes_of(tree)
            for path in ("http.conf", "main.conf", "nginx.conf"):
                foreign = nginx_names(tree.get(f"nginx/{path}", "")) - self.vocabulary
                if foreign:
                    self._fault(given, "injected", f"nginx/{path}: {foreign} stand in no template")
            twin = twin_of(stack, lambda text: _UNHARMFUL.sub("x", text))
            if twin != stack:
                self.tally.twins += 1
                if difference := differing(shapes, shapes_of(render(twin, facts, self.parts))):
                    self._fault(given, "injected", difference)
            if self.engines:
                self.ask_engines(given, stack, facts, tree)
        except Malformed as error:
            self._fault(given, "injected", f"a rendered text is torn: {error}")

    def ask_engines(self, given: Input, stack: Stack, facts: Facts, tree: Mapping[str, str]) -> None:
        """nft holds exactly the table that was meant; nginx, asked now and then, takes its text."""
        if NFT in tree:
            try:
                listing = load_table(tree[NFT])
            except NftError as error:
                self._fault(given, "refused by nft", error.message)
                return
            self.tally.nft_loaded += 1
            assert stack.firewall is not None
            if difference := _not_as_meant(listing, build_table(stack, stack.firewall, facts)):
                self._fault(given, "injected", f"nft: {difference}")
        # Only for the machine whose nginx is like the one that is installed here.
        if "nginx/http.conf" in tree and facts is MACHINES[0]:
            self._with_nginx += 1
            if self._with_nginx % self.nginx_every == 1:
                self._try_nginx(tree, facts)

    def _try_nginx(self, tree: Mapping[str, str], facts: Facts) -> None:
        from tsstack.parts.proxy.plan import parse_plan
        from tsstack.parts.proxy.rehearsal import rehearse

        self.tally.nginx_tried += 1
        with tempfile.TemporaryDirectory() as name:
            for path, text in tree.items():
                (Path(name) / path).parent.mkdir(exist_ok=True)
                (Path(name) / path).write_text(text)
            try:
                rehearse(Path(name), parse_plan(tree["nginx/plan.json"]), facts)
            except CheckFailed as error:
                self.tally.refused_by_engine[re.sub(r"\d+", "N", error.message)[:150]] += 1

    def behind_the_model(self, stack: Stack, facts: Facts | None, word: str, hostile: str) -> None:
        """Put `hostile` for every `word` of a stack, as if the model had let it pass, and render.

        The parts must refuse it, or write the same statements as for the same word without syntax in it.
        """
        given = Input(f"behind the model: {word!r} becomes {hostile!r}", b"")
        harmless = _UNHARMFUL.sub("x", hostile)

        def put(text: str) -> Callable[[str], str]:
            return lambda old: text if old == word else old

        assert facts is not None
        try:
            tree = render(twin_of(stack, put(hostile)), facts, self.parts)
            expected = tree
            if harmless != hostile:
                expected = render(twin_of(stack, put(harmless)), facts, self.parts)
        except (TsstackError, ValueError, LookupError):  # LookupError: it named something else
            self.tally.behind_the_model["refused"] += 1
            return
        try:
            if difference := differing(
                shapes_of(tree), shapes_of(expected), loose=not _ENDING.search(hostile)
            ):
                self._fault(given, "injected", difference)
                return
            if self.engines and NFT in tree and tree[NFT] != expected[NFT]:
                shape = load_table(expected[NFT]).shape
                if load_table(tree[NFT]).shape != shape:
                    self._fault(given, "injected", "nft holds other rules than for a harmless word")
                    return
        except (Malformed, NftError) as error:
            self._fault(given, "injected", f"a rendered text is torn: {error}")
            return
        self.tally.behind_the_model["harmless"] += 1


def _vocabulary() -> set[str]:
    """The names of statements in the templates."""
    words: set[str] = set()
    for path in (assets.folder("templates") / "nginx").glob("*.j2"):
        words |= set(_FIRST_WORD.findall(_TEMPLATE_SYNTAX.sub("\n", path.read_text()).replace("{", "\n")))
    # Written by the code: only a name's length decides about them.
    return words | {"server_names_hash_bucket_size", "server_names_hash_max_size"}


def shapes_of(tree: Mapping[str, str]) -> dict[str, Shape]:
    """The shape of every rendered file. Raises Malformed."""
    shapes: dict[str, Shape] = {}
    for path, text in tree.items():
        if path.endswith(".json"):
            json.loads(text)  # json.dumps() made it: no text can leave its quotes
        elif path.startswith("nginx/"):
            shapes[path] = nginx_shape(text)
        elif path.startswith("kernel/"):
            shapes[path] = lines_shape(text)
            if text.count("\n") != len(json.loads(tree["kernel/sysctl.json"])):
                raise Malformed("sysctl.conf and sysctl.json do not say the same")
        else:
            shapes[path] = _nft_shape(text)
    return shapes


# What a choice of upstreams adds. It is let pass for a text that can end no statement, and for no other.
_ENDING = re.compile(r"[;{}#\s\"'\\$]")
_CHOICE = {
    "proxy_next_upstream +2 ;", "proxy_next_upstream_tries +1 ;", "server +1 ;", "server +3 ;", "server +4 ;"
}  # fmt: skip
_NFT_QUOTED = re.compile(r'"[^"\n]*"')


def _nft_shape(text: str) -> Shape:
    """How far each line is indented, and the syntax in it; what nft makes of it is asked of nft."""
    found: Shape = Counter()
    for line in text.splitlines():
        bare = _NFT_QUOTED.sub("Q", line)
        if '"' in bare:
            raise Malformed(f"an open quote: {line!r}")
        found[(str(len(line) - len(line.lstrip("\t"))), *re.findall(r"[{};#]|Q", bare))] += 1
    return found


def _without_choice(shape: Shape) -> Shape:
    """Without what a service has only where there are two upstreams: that one of two equal ones changes."""
    return Counter({words: count for words, count in shape.items() if words[-1] not in _CHOICE})


def differing(mine: dict[str, Shape], other: dict[str, Shape], *, loose: bool = False) -> str:
    """What two sets of shapes differ in, or nothing. `loose`: a choice of upstreams is no difference."""
    for path in sorted({*mine, *other}):
        left, right = mine.get(path, Counter()), other.get(path, Counter())
        if loose:
            left, right = _without_choice(left), _without_choice(right)
        if left != right:
            return f"{path}: more {dict(left - right)}, less {dict(right - left)}"[:600]
    return ""


def load_table(text: str) -> Listing:
    """Load a table into the namespace that we are in, and tell what is there then. Raises NftError."""
    session = Session()
    session.run("flush ruleset")
    session.run(text)
    return nft_listing(session.query("list ruleset"))


def _not_as_meant(listing: Listing, table: Any) -> str:
    """What the kernel holds beside or without the table that was built before it became text."""
    from tsstack.parts.firewall.text import quote

    rules = Counter({chain.name: len(chain.rules) for chain in table.chains if chain.rules})
    if listing.rules != rules:
        return f"rules: {listing.rules - rules} too many, {rules - listing.rules} missing"
    if listing.chains != {chain.name for chain in table.chains}:
        return f"chains: {listing.chains}"
    if set(listing.elements) != set(table.sets):
        return f"sets: {set(listing.elements) ^ set(table.sets)}"
    others = Counter({"table inet tsstack": 1, "counter inet ": len(table.counters)})
    if listing.others != +others:
        return f"other objects: {listing.others}"
    strange = [comment for comment in listing.comments if quote(comment) != f'"{comment}"']
    return f"comments: {strange}" if strange else ""


def twin_of(value: Any, change: Callable[[str], str]) -> Any:
    """A value of the model with every text in it, keys too, put through `change`; nothing is validated."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, BaseModel):
        changed = {name: twin_of(getattr(value, name), change) for name in value.model_fields_set}
        return value.model_copy(update=changed)
    if isinstance(value, dict):
        return {change(key): twin_of(below, change) for key, below in value.items()}
    if isinstance(value, tuple):
        return tuple(twin_of(below, change) for below in value)
    if is_dataclass(value) and not isinstance(value, type):
        texts = {each.name: getattr(value, each.name) for each in fields(value)}
        return replace(value, **{name: change(text) for name, text in texts.items() if isinstance(text, str)})
    return value


def _argv_words(stack: Stack) -> Iterator[str]:
    """What becomes a whole word of a command line: ip, tc, ethtool, resolvectl."""
    yield from stack.bandwidth
    yield from stack.dns.split
    yield stack.host.uplink or ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, below in value.items():
            yield key
            yield from _texts(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _texts(below)


def stacks(presets: Presets) -> list[Stack]:
    """Good files in which words are replaced behind the model's back: between them they say everything."""
    changed: list[dict[str, Any]] = [FULL]
    for names in ("path", "port", "service"):
        proxy = {**FULL["proxy"], "names": names, "tls": {"certificate": "/etc/c.pem", "key": "/etc/k.pem"}}
        services = {key: {**value} for key, value in proxy["services"].items()}
        for number, service in enumerate(services.values()):
            service.setdefault("port", 9000 + number)
        changed.append({**FULL, "proxy": {**proxy, "services": services}})
    texts = [json.dumps(tree).encode() for tree in changed]
    return [parse_stack(text, FILE, presets).stack for text in texts]


def words_of(value: Any) -> Iterator[str]:
    """Every text of a value of the model, keys too."""
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    twin_of(value, keep)
    return iter(dict.fromkeys(found))


__all__ = ["FILE", "MACHINES", "Judge", "Paths", "Tally", "words_of"]
