"""Discovery, nginx's words, certificates on disk, changes: what needs no running nginx."""

from __future__ import annotations

import datetime
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from tsstack.errors import ApplyFailed, CheckFailed
from tsstack.parts.proxy import authority, engine
from tsstack.parts.proxy.discovery import describe_nginx
from tsstack.parts.proxy.engine import explain_refusal
from tsstack.parts.proxy.host import PART
from tsstack.parts.proxy.plan import PLAN, Certificate, parse_plan
from tsstack.parts.proxy.seen import Seen, parse_seen

HOST = "host: {name: box, tailnet: tail.test}\n"
DEBIAN_WORDS = (
    "nginx version: nginx/1.22.1\nconfigure arguments: --modules-path={modules} --with-http_v2_module "
    "--with-http_auth_request_module --with-stream=dynamic --with-stream_ssl_module"
)
DEBIAN_CONF = (
    "user www-data;\npid /run/nginx.pid;\ninclude /etc/nginx/modules-enabled/*.conf;\nevents {\n}\nhttp {\n"
    "\t# server_tokens off;\n\tssl_protocols TLSv1.2;\n\tinclude /etc/nginx/conf.d/*.conf;\n}\n"
)
NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def test_debians_nginx_is_described(tmp_path):
    folder, modules = tmp_path / "nginx", tmp_path / "modules"
    for each in (folder / "modules-enabled", folder / "sites-enabled", folder / "conf.d", modules):
        each.mkdir(parents=True)
    words = DEBIAN_WORDS.format(modules=modules)
    assert describe_nginx(words, folder).stream is False
    (modules / "ngx_stream_module.so").touch()
    (folder / "nginx.conf").write_text(DEBIAN_CONF)
    (folder / "sites-enabled/default").write_text(
        "server {\n listen 80 default_server;\n listen [::]:80 default_server;\n}"
    )
    (folder / "conf.d/tsstack.conf").write_text("server {\n listen 1.2.3.4:80 default_server;\n}")
    found = describe_nginx(words, folder)
    assert found.version == (1, 22, 1) and found.http2 and not found.http3 and found.auth_request
    assert found.stream and found.stream_module == str(modules / "ngx_stream_module.so")
    assert not found.stream_loaded and found.modules_enabled
    assert found.main_config == str(folder / "nginx.conf")
    assert "ssl_protocols" in found.directives and "server_tokens" not in found.directives
    assert found.default_servers == ("80", "[::]:80")
    (folder / "modules-enabled/50-mod-stream.conf").write_text("load_module modules/ngx_stream_module.so;")
    assert describe_nginx(words, folder).stream_loaded


def test_a_main_file_that_includes_nothing_is_not_ours_to_use(tmp_path):
    (tmp_path / "nginx.conf").write_text("events {}\nhttp {}\n")
    words = "nginx version: nginx/1.26.2\nconfigure arguments: --with-stream --with-http_v3_module"
    found = describe_nginx(words, tmp_path)
    assert found.main_config == "" and found.stream and found.stream_module == "" and found.http3
    assert describe_nginx("something else", tmp_path) is None


def test_nginxs_words_are_placed_in_the_file(tmp_path):
    conf = tmp_path / "http.conf"
    conf.write_text("a;\n#@ proxy.services.one\nb;\n  #@ proxy.services.two\nc;\nd;\n")
    stderr = f'2026/11/21 02:00:00 [emerg] 12#12: unknown directive "d" in {conf}:6\nnginx: test failed\n'
    assert explain_refusal(stderr) == (f'proxy.services.two: unknown directive "d" in {conf}:6', "")
    message, hint = explain_refusal(
        "nginx: [emerg] bind() to 100.64.0.9:443 failed (99: Cannot assign requested address)"
    )
    assert message.startswith("bind() to 100.64.0.9:443") and "tailscaled" in hint
    assert explain_refusal("") == ("", "")
    limit = "[alert] 7#7: setrlimit(RLIMIT_NOFILE, 65535) failed (1: Operation not permitted)\n"
    assert explain_refusal(limit + 'nginx: [emerg] unknown directive "x"')[0] == 'unknown directive "x"'
    engine._raise_refusal(limit.replace("7#7", "8#8") + limit.replace("alert", "crit"), 7)
    with pytest.raises(ApplyFailed, match="unknown directive"):
        engine._raise_refusal(limit + '[emerg] 7#7: unknown directive "x"\n', 7)


def certificate(tmp_path, *names, kind="local-ca"):
    path = str(tmp_path / "tls" / "leaf.pem")
    return Certificate(kind, names, path, path)


def test_the_local_ca_signs_what_clients_accept_and_nothing_beyond_the_tailnet(tmp_path):
    pem, start, end = (
        authority.issue(tmp_path / "tls", "tail.test", ("*.box.tail.test", "box.tail.test"), NOW)
        if ((tmp_path / "tls").mkdir() is None)
        else None
    )
    ca = x509.load_pem_x509_certificate(authority.ca_certificate(tmp_path / "tls", "tail.test").read_bytes())
    leaf = x509.load_pem_x509_certificate(pem)
    leaf.verify_directly_issued_by(ca)
    assert (end - NOW).days == authority.LEAF_DAYS and start < NOW
    constraints = ca.extensions.get_extension_for_class(x509.NameConstraints).value
    assert [name.value for name in constraints.permitted_subtrees] == ["tail.test"]
    assert len(list(constraints.excluded_subtrees)) == 2
    again, _, _ = authority.issue(tmp_path / "tls", "tail.test", ("a.tail.test",), NOW)
    x509.load_pem_x509_certificate(again).verify_directly_issued_by(ca)


def test_renewal_is_due_with_a_third_of_life_left(tmp_path):
    one = certificate(tmp_path, "a.tail.test")
    assert authority.is_due(one, NOW.timestamp())
    authority.provide(one, tmp_path / "tls", "tail.test", Path("/none"), now_unix_s=NOW.timestamp())
    day = 86400
    assert not authority.is_due(one, NOW.timestamp() + 59 * day)
    assert authority.is_due(one, NOW.timestamp() + 61 * day)
    assert Path(one.certificate).stat().st_mode & 0o777 == 0o600
    Path(one.certificate).unlink()
    assert authority.is_due(one, NOW.timestamp())


def test_a_damaged_ca_is_never_replaced_silently(tmp_path):
    one = certificate(tmp_path, "a.tail.test")
    authority.provide(one, tmp_path / "tls", "tail.test", Path("/none"), now_unix_s=NOW.timestamp())
    before = Path(one.certificate).read_bytes()
    path = authority.ca_certificate(tmp_path / "tls", "tail.test")
    path.with_suffix(".key").write_text("garbage")
    with pytest.raises(ApplyFailed, match="cannot be read"):
        authority.provide(one, tmp_path / "tls", "tail.test", Path("/none"), now_unix_s=NOW.timestamp())
    assert Path(one.certificate).read_bytes() == before


def test_no_tailscaled_no_certificate_and_the_old_one_stays(tmp_path):
    one = certificate(tmp_path, "box.tail.test", kind="tailscale")
    (tmp_path / "tls").mkdir()
    Path(one.certificate).write_text("old")
    with pytest.raises(ApplyFailed, match=r"gave no certificate for box\.tail\.test"):
        authority.provide(one, tmp_path / "tls", "tail.test", tmp_path / "none.sock", now_unix_s=0)
    assert Path(one.certificate).read_text() == "old"


def seen(tree, **changed):
    plan = parse_plan(tree[PLAN])
    links = {
        "/etc/nginx/conf.d/tsstack.conf": "/x/http.conf",
        "/etc/nginx/modules-enabled/90-tsstack.conf": "/x/main.conf",
    }
    whole = Seen(
        main_config=plan.main_config,
        links=links,
        running=True,
        outdated=False,
        loaded=plan.digest,
        services=plan.services,
        settings={},
        identity=plan.identity,
        identity_started=plan.identity,
        due=(),
        record={},
    )
    return replace(whole, **changed).to_snapshot()


def test_a_snapshot_of_another_version_can_be_gone_back_to(render):
    tree = render(HOST + "proxy: {services: {a: {upstream: 1}}}")
    old = seen(tree)
    del old["outdated"]
    assert parse_seen({**old, "of_a_later_version": 1}) == parse_seen(seen(tree))


def test_changes_are_none_when_all_is_so_and_name_what_is_not(render):
    tree = render(HOST + "proxy: {services: {a: {upstream: 1, allow: ['tag:x']}}}")

    def words(**changed):
        return [str(change) for change in PART.changes(tree, seen(tree, **changed))]

    assert words() == []
    assert words(running=False) == ["~ nginx: stopped -> running"]
    assert words(outdated=True) == ["~ nginx: runs a program that was exchanged -> restarted"]
    assert words(running=False, outdated=True) == ["~ nginx: stopped -> running"]
    assert words(due=("*.box.tail.test",)) == ["+ certificate for *.box.tail.test: fetched or renewed"]
    assert words(identity=False) == ["+ identity daemon: running"]
    assert words(services={}) == ["+ service a: https://a.box.tail.test/"]
    assert words(loaded="other")[0].startswith("~ nginx configuration: other -> ")
    assert words(links={"/etc/nginx/conf.d/tsstack.conf": None}) == [
        "+ link /etc/nginx/conf.d/tsstack.conf: set"
    ]
    gone = [str(change) for change in PART.changes({}, seen(tree))]
    assert len(gone) == 4 and all(line.startswith("- ") for line in gone)
    clean = seen(tree, links={}, loaded="", services={}, identity_started=False)
    assert PART.changes({}, clean) == ()


def test_a_changed_service_is_told_by_the_keys_that_changed(render):
    def tree(service):
        return render(HOST + f"proxy: {{services: {{a: {service}}}}}")

    old = tree("{upstream: [1, '10.0.0.9:2 backup'], rate_limit: 20r/s}")
    new = tree("{upstream: 1, connect_timeout: 9s, rate_limit: 10r/s}")
    live = parse_plan(old[PLAN])

    def words(settings):
        snapshot = seen(old, services=live.services, settings=settings)
        return [str(change) for change in PART.changes(new, snapshot)]

    assert words(live.settings) == [
        "~ service a, connect_timeout: default -> 9.0",
        "~ service a, rate_limit: 20r/s -> 10r/s",
        "~ service a, upstream: http://127.0.0.1:1, http://10.0.0.9:2 backup -> http://127.0.0.1:1",
    ]
    assert words({}) == ["~ service a: as before -> changed, at https://a.box.tail.test/"]


@pytest.mark.parametrize("topic", ["01-subdomain", "04-port-plain-standalone"])
def test_a_build_is_accepted_by_nginx_on_its_own_and_by_any_user(topic, golden, load, facts, tmp_path):
    """As `tsstack build` does it: the machine's own nginx, and no tailnet."""
    from tsstack.parts.proxy.host import discover_nginx
    from tsstack.parts.proxy.placeholders import write_placeholders
    from tsstack.system.command import run

    known = facts(addresses=())
    root = tmp_path / "nginx"
    paths = replace(known.paths, state=root, run=root / "run", log=root / "log")
    known = replace(known, nginx=discover_nginx(known.paths), paths=paths)
    tree = PART.desired(load((golden / topic / "stack.yaml").read_text()), known)
    root.mkdir()
    for path, text in tree.items():
        (tmp_path / path).write_text(text)
    write_placeholders(tmp_path, tree)
    PART.check(tmp_path, known)
    tested = run(
        ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec nginx -t -c "$0"', root / "nginx.conf"]
    )
    assert "test is successful" in tested.stderr
    outside = {path for path in tree if not path.startswith("nginx/")}
    assert not outside


def test_check_works_without_root(golden, load, facts, tmp_path, monkeypatch):
    """In a user namespace of its own, as an ordinary user's `tsstack check` does it."""
    from tsstack.parts.proxy.rehearsal import rehearse

    # The interpreter and the script that this run uses may lie where an ordinary user cannot look.
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    monkeypatch.setattr(engine, "_TRIAL", tmp_path / "trial.py")
    (tmp_path / "trial.py").write_text(Path(engine.__file__).with_name("trial.py").read_text())
    tree = PART.desired(load((golden / "01-subdomain/stack.yaml").read_text()), facts())
    (tmp_path / "nginx").mkdir()
    for path, text in tree.items():
        (tmp_path / path).write_text(text)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.is_relative_to(Path("/tmp/pytest-of-root")):
            folder.chmod(0o755)
    child = os.fork()
    if child == 0:  # the ordinary user
        code = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            rehearse(tmp_path, parse_plan(tree[PLAN]), facts())
            code = 0
        except CheckFailed as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
