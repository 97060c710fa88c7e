"""Joining a real Headscale with a real tailscaled, and every way in which that can fail."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tailscale_bed import CONTROL, Bed, Node, engine, engines, eventually, sh, stack_of

from tsstack.errors import ApplyFailed, CheckFailed, SecretError
from tsstack.parts.tailscale.host import PART, TailscalePart, discover_tailscale

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture
def sops_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sops file with nothing in it yet, and the identity that opens it in our environment."""
    monkeypatch.setenv("PATH", f"{engines()['sops'].parent}:{os.environ['PATH']}")
    identity = tmp_path / "age.key"
    sh(engine("age-keygen"), "-o", str(identity))
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(identity))
    return tmp_path / "secrets.yaml"


def seal(file: Path, text: str) -> None:
    recipient = sh(engine("age-keygen"), "-y", os.environ["SOPS_AGE_KEY_FILE"]).strip()
    file.write_text(
        sh(engine("sops"), "encrypt", "--age", recipient, "--filename-override", str(file), stdin=text)
    )


def cmdlines() -> set[bytes]:
    """Every argument list on this machine right now."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def expect_untouched(node: Node, before: object, tree: dict[str, str]) -> None:
    assert PART.observe(tree, node.facts) == before
    assert node.api.status(peers=False)["BackendState"] == "NeedsLogin"


def test_joins_with_a_key_from_sops_and_the_key_shows_up_nowhere(bed: Bed, sops_file: Path) -> None:
    key = bed.key(tags="tag:server")
    seal(sops_file, f"authkey: {key}\n")
    node = bed.node()
    stack = stack_of(
        "alpha",
        auth_key={"secret": "authkey"},
        tags=["tag:server"],
        extra={"secrets": {"file": str(sops_file)}},
    )
    seen: set[bytes] = set()
    done = threading.Event()

    def sample() -> None:
        while not done.is_set():
            seen.update(cmdlines())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        tree, before = node.switch(stack)
    finally:
        done.set()
        sampler.join()
    assert any(b"sops\0decrypt" in line for line in seen), "the sampler must have seen sops at work"
    assert not any(key.encode() in line for line in seen)
    assert key not in "".join(
        [*tree.values(), *node.reports, str(before), str(PART.observe(tree, node.facts))]
    )
    written = [path for path in node.folder.rglob("*") if path.is_file()]
    assert node.folder / "generations/1/tailscale/enrolment.json" in written
    assert not [path for path in written if key.encode() in path.read_bytes()]
    status = node.api.status(peers=False)
    assert status["Self"]["Tags"] == ["tag:server"]
    assert status["Self"]["DNSName"] == "alpha.tail.test."


def test_joins_with_a_key_file_and_the_facts_say_so(bed: Bed) -> None:
    node = bed.node()
    assert discover_tailscale(node.facts.paths).backend_state == "NeedsLogin"
    tree, before = node.switch(stack_of("beta", auth_key=node.key_file(bed.key())))
    lines = [str(line) for line in PART.changes(tree, before)]
    assert lines[0] == f"+ tailscale: join http://{CONTROL}:8080 as beta"
    facts = discover_tailscale(node.facts.paths)
    assert facts.backend_state == "Running"
    assert facts.dns_name == "beta.tail.test"
    assert facts.magic_dns_suffix == "tail.test"
    assert facts.version >= (1, 80, 0)
    assert [":" in address for address in facts.addresses] == [False, True]
    assert PART.changes(tree, PART.observe(tree, node.facts)) == ()


def test_pitfall_21_the_addresses_can_be_bound_when_activation_returns(bed: Bed) -> None:
    node = bed.node()
    _, generation = node.stage(stack_of("gamma", auth_key=node.key_file(bed.key())))

    def activate_and_bind() -> None:
        PART.activate(generation, node.facts, node.reports.append)
        for address in node.api.status(peers=False)["TailscaleIPs"]:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as server:
                server.bind((address, 443))

    node.inside(activate_and_bind)
    # Outside the node's namespace its address can never be bound: activation must not say that it can.
    with pytest.raises(ApplyFailed, match=r"100\.64\.\d+\.\d+ cannot be bound after 0\.3 s"):
        TailscalePart(address_timeout_s=0.3).activate(generation, node.facts, node.reports.append)


def test_pitfall_15_and_17_settings_of_others_survive_and_the_daemon_is_never_restarted(bed: Bed) -> None:
    node = bed.node()
    node.api.patch_prefs({"PostureChecking": True, "RunWebClient": True})
    started = Path(f"/proc/{node.process.pid}/stat").read_text().split()[21]
    _, before = node.switch(stack_of("delta", auth_key=node.key_file(bed.key()), accept_routes=True))
    node.switch(stack_of("delta", shields_up=True))
    prefs = node.api.prefs()
    assert (prefs["PostureChecking"], prefs["RunWebClient"]) == (True, True)
    assert (prefs["RouteAll"], prefs["ShieldsUp"]) == (False, True)
    PART.restore(before, node.facts)
    assert Path(f"/proc/{node.process.pid}/stat").read_text().split()[21] == started


@pytest.mark.parametrize("kind", ["garbage", "expired", "used"])
def test_a_bad_key_fails_at_once_with_the_servers_words_and_leaves_no_trace(bed: Bed, kind: str) -> None:
    key = {"garbage": lambda: "not a key", "expired": lambda: bed.key(expiry="1s"), "used": bed.key}[kind]()
    if kind == "used":
        other = bed.node()
        other.switch(stack_of("first", auth_key=other.key_file(key)))
    if kind == "expired":
        time.sleep(1.2)
    node = bed.node()
    tree, generation = node.stage(stack_of(f"bad-{kind}", auth_key=node.key_file(key)))
    before = PART.observe(tree, node.facts)
    raw = node.api.prefs()
    PART.check(generation, node.facts)
    start = time.monotonic()
    with pytest.raises(ApplyFailed) as failure:
        PART.activate(generation, node.facts, node.reports.append)
    assert time.monotonic() - start < 5
    words = {"garbage": "invalid pre auth key", "expired": "expired", "used": "used"}[kind]
    assert words in failure.value.message
    assert "new key" in failure.value.hint
    assert key not in f"{failure.value.message}{failure.value.hint}{failure.value.__cause__}"
    PART.restore(before, node.facts)
    expect_untouched(node, before, tree)
    assert node.api.prefs() == raw
    assert bed.registered(f"bad-{kind}") is None


def test_tags_that_only_the_file_names_are_told_not_sent(bed: Bed) -> None:
    node = bed.node()
    node.api.patch_prefs({"AdvertiseTags": ["tag:server"]})
    tree, _ = node.switch(stack_of("untagged", auth_key=node.key_file(bed.key()), tags=["tag:server"]))
    generation = node.folder / "generations/1"
    (warning,) = PART.warnings(generation, node.facts)
    assert "tag:server" in warning
    assert "headscale nodes tag" in warning
    assert PART.changes(tree, PART.observe(tree, node.facts)) == ()


def test_an_unreachable_server_costs_no_more_than_the_limit(bed: Bed) -> None:
    node = bed.node()
    stack = stack_of("lost", auth_key=node.key_file(bed.key()), login_server="http://10.77.0.99:8080")
    tree, generation = node.stage(stack)
    before = PART.observe(tree, node.facts)
    start = time.monotonic()
    with pytest.raises(ApplyFailed, match=r"did not join http://10\.77\.0\.99:8080 within 4 s") as failure:
        TailscalePart(enrol_timeout_s=4).activate(generation, node.facts, node.reports.append)
    assert 3.5 < time.monotonic() - start < 6
    assert "route to host" in failure.value.message
    PART.restore(before, node.facts)
    expect_untouched(node, before, tree)


def test_a_failed_first_switch_is_undone_without_a_network(bed: Bed) -> None:
    node = bed.node()
    raw = node.api.prefs()
    tree, before = node.switch(stack_of("undone", auth_key=node.key_file(bed.key())))
    sh("ip", "-n", node.namespace, "link", "set", "eth0", "down")
    start = time.monotonic()
    PART.restore(before, node.facts)
    assert time.monotonic() - start < 10
    expect_untouched(node, before, tree)
    assert node.api.prefs() == raw
    PART.restore(before, node.facts)
    assert bed.registered("undone") is not None, "the record stays with the server, as documented"


@pytest.mark.parametrize("wait_s", [0.0, 0.5, 1.5])
def test_a_switch_killed_while_joining_is_undone_for_good_or_carried_on(bed: Bed, wait_s: float) -> None:
    node = bed.node()
    tree, generation = node.stage(stack_of("killed", auth_key=node.key_file(bed.key())))
    before, raw = PART.observe(tree, node.facts), node.api.prefs()

    def begin_and_die() -> None:
        prefs = {**raw, "ControlURL": f"http://{CONTROL}:8080", "WantRunning": True, "LoggedOut": False}
        node.api.start((node.folder / "key").read_text().strip(), prefs)
        node.api.login_interactive()
        time.sleep(wait_s)

    begin_and_die()
    PART.restore(before, node.facts)
    time.sleep(3)
    expect_untouched(node, before, tree)
    assert node.api.prefs() == raw
    node.key_file(bed.key(reusable=True))
    begin_and_die()
    node.inside(lambda: PART.activate(generation, node.facts, node.reports.append))
    PART.verify(generation, node.facts)


def test_a_node_whose_own_key_expired_joins_again_with_a_new_one(bed: Bed) -> None:
    node = bed.node()
    tree, _ = node.switch(stack_of("epsilon", auth_key=node.key_file(bed.key())))
    record = bed.registered("epsilon")
    assert record is not None
    bed.headscale("nodes", "expire", "-i", str(record["id"]))
    eventually(lambda: PART.observe(tree, node.facts)["needs_login"])
    node.key_file(bed.key())
    node.switch(stack_of("epsilon", auth_key={"file": str(node.folder / "key")}))
    assert PART.changes(tree, PART.observe(tree, node.facts)) == ()


def test_the_key_is_asked_for_in_check_when_it_will_be_needed(bed: Bed, sops_file: Path) -> None:
    node = bed.node()
    _, generation = node.stage(stack_of("zeta"))
    with pytest.raises(SecretError, match=r"tailscale\.auth_key is missing"):
        PART.check(generation, node.facts)
    _, generation = node.stage(stack_of("zeta", auth_key={"file": str(node.folder / "nothing")}))
    with pytest.raises(SecretError, match="does not exist"):
        PART.check(generation, node.facts)
    seal(sops_file, "other: not-to-be-shown\n")
    stack = stack_of("zeta", auth_key={"secret": "authkey"}, extra={"secrets": {"file": str(sops_file)}})
    _, generation = node.stage(stack)
    with pytest.raises(SecretError, match="has no key authkey; it has other") as failure:
        PART.check(generation, node.facts)
    assert "not-to-be-shown" not in str(failure.value)
    _, generation = node.stage(stack_of("zeta", auth_key={"secret": "authkey"}))
    with pytest.raises(SecretError, match=r"secrets\.file is missing"):
        PART.check(generation, node.facts)


def test_another_login_server_than_the_one_joined_is_refused(bed: Bed) -> None:
    node = bed.node()
    node.switch(stack_of("eta", auth_key=node.key_file(bed.key())))
    _, generation = node.stage(stack_of("eta", login_server="https://controlplane.tailscale.com"))
    with pytest.raises(CheckFailed, match=r"tailscale\.login_server: this host has joined http") as failure:
        PART.check(generation, node.facts)
    assert "logout" in failure.value.hint
    _, generation = node.stage(stack_of("eta", login_server=f"http://{CONTROL}:8080/"))
    PART.check(generation, node.facts)


def test_a_silent_daemon_is_a_refusal_not_a_hang(bed: Bed) -> None:
    node = bed.node()
    tree, generation = node.stage(stack_of("theta", auth_key=node.key_file("k")))
    node.process.send_signal(signal.SIGTERM)
    node.process.wait(10)
    for attempt in (lambda: PART.check(generation, node.facts), lambda: PART.observe(tree, node.facts)):
        with pytest.raises(CheckFailed, match="does not answer") as failure:
            attempt()
        assert failure.value.hint == "systemctl start tailscaled"
    assert discover_tailscale(node.facts.paths) is None


def test_the_sampler_of_argument_lists_would_see_a_key() -> None:
    process = subprocess.Popen(["sleep", "31.4159"])
    try:
        eventually(lambda: any(b"31.4159" in line for line in cmdlines()))  # it is a moment after exec(2)
    finally:
        process.kill()
        process.wait()


def test_a_host_whose_first_join_was_undone_joins_again_with_the_same_key(bed: Bed) -> None:
    """After a logout Headscale would call a node whose key brings tags expired for ever."""
    node = bed.node()
    stack = stack_of("again", auth_key=node.key_file(bed.key(tags="tag:exit", reusable=True)))
    for _ in range(2):
        _, before = node.switch(stack)
        PART.restore(before, node.facts)
    tree, _ = node.switch(stack)
    assert PART.changes(tree, PART.observe(tree, node.facts)) == ()


def test_a_tagged_node_that_logged_out_is_told_the_cure_and_the_cure_works(bed: Bed) -> None:
    node = bed.node()
    key = node.key_file(bed.key(tags="tag:server", reusable=True))
    stack = stack_of("gone", auth_key=key)
    node.switch(stack)
    old = bed.registered("gone")
    assert old is not None
    node.tailscale("logout")
    began_s = time.monotonic()
    with pytest.raises(ApplyFailed, match="still has a node of it whose key has expired") as failure:
        node.switch(stack)
    assert time.monotonic() - began_s < 20, "not all of the time that a join may take"
    assert "headscale nodes delete -i ID" in failure.value.hint
    bed.headscale("nodes", "delete", "-i", str(old["id"]), "--force")
    node.switch(stack)
    assert node.api.status(peers=False)["BackendState"] == "Running"
