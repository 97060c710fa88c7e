"""What is known of the installed nginx: from `nginx -V`, its modules on disk, the distribution's file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import CommandFailed
from tsstack.model.facts import NginxFacts
from tsstack.system.command import run, which

if TYPE_CHECKING:
    from tsstack.model.facts import Paths

OWN_HTTP = "conf.d/tsstack.conf"
OWN_MAIN = "modules-enabled/90-tsstack.conf"
_DIRECTIVE = re.compile(r"^\s*([a-z0-9_]+)\b", re.MULTILINE)
_DEFAULT_SERVER = re.compile(r"^\s*listen\s+(\S+)[^;]*\bdefault(?:_server)?\b[^;]*;", re.MULTILINE)
_LISTEN = re.compile(r"^\s*listen\s+([^\s;]+)", re.MULTILINE)
_STREAM_MODULE = "ngx_stream_module.so"


def discover_nginx(paths: Paths) -> NginxFacts | None:
    """The installed nginx, or None when there is none. Runs `nginx -V` and reads the distribution's files."""
    binary = which("nginx")
    if binary is None:
        return None
    try:
        words = run([binary, "-V"], timeout_s=10).stderr
    except CommandFailed:
        return None
    return describe_nginx(words, paths.etc / "nginx")


def describe_nginx(words: str, folder: Path) -> NginxFacts | None:
    """Facts from what `nginx -V` says and from the distribution's configuration in `folder`."""
    version = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", words)
    if version is None:
        return None
    modules = Path(option(words, "modules-path") or "/usr/lib/nginx/modules")
    built_in = re.search(r"--with-stream(?:\s|$)", words) is not None
    module = modules / _STREAM_MODULE
    dynamic = str(module) if not built_in and module.exists() else ""
    main = folder / "nginx.conf"
    text = _read(main)
    included = re.search(r"^\s*include\s+\S*conf\.d/\*(?:\.conf)?;", text, re.MULTILINE) is not None
    enabled = re.search(r"^\s*include\s+\S*modules-enabled/\*\.conf;", text, re.MULTILINE) is not None
    snippets = _texts(folder / "modules-enabled", OWN_MAIN) if enabled else []
    sites = [*_texts(folder / "conf.d", OWN_HTTP), *_texts(folder / "sites-enabled", ""), text]
    return NginxFacts(
        version=(int(version[1]), int(version[2]), int(version[3])),
        http2="--with-http_v2_module" in words,
        http3="--with-http_v3_module" in words,
        stream=built_in or bool(dynamic),
        stream_module=dynamic,
        auth_request="--with-http_auth_request_module" in words,
        realip="--with-http_realip_module" in words,
        main_config=str(main) if included else "",
        stream_loaded=any(_STREAM_MODULE in snippet for snippet in [*snippets, text]),
        modules_enabled=included and enabled,
        directives=tuple(sorted(set(_DIRECTIVE.findall(text)))) if included else (),
        default_servers=tuple(sorted({listen for site in sites for listen in _DEFAULT_SERVER.findall(site)}))
        if included
        else (),
    )


def find_listens(folder: Path) -> list[tuple[str, str]]:
    """(file, first word of `listen`) for each one in the sites of the distribution's configuration."""
    paths = [folder / "nginx.conf"]
    for below, own in (("conf.d", OWN_HTTP), ("sites-enabled", "")):
        if (folder / below).is_dir():
            paths += sorted(path for path in (folder / below).iterdir() if f"{below}/{path.name}" != own)
    return [(str(path), listen) for path in paths for listen in _LISTEN.findall(_read(path))]


def option(words: str, name: str) -> str:
    """The value of a configure argument in what `nginx -V` says; empty when it is not there."""
    found = re.search(rf"--{name}=(\S+)", words)
    return found[1] if found else ""


def _texts(folder: Path, own: str) -> list[str]:
    if not folder.is_dir():
        return []
    return [_read(path) for path in sorted(folder.iterdir()) if not own or path.name != Path(own).name]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a dangling link or a folder among the sites: nginx will say so itself
        return ""
