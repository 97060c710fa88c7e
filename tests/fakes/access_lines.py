"""Lines as nginx 1.22.1 writes them with our formats, and logs made of them."""

from __future__ import annotations

import datetime

NOW = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC


def stamp(unix_s, hours=0):
    zone = datetime.timezone(datetime.timedelta(hours=hours))
    return datetime.datetime.fromtimestamp(unix_s, zone).isoformat(timespec="seconds")


def http_line(unix_s=NOW, *, status=200, took="0.003", upstream="127.0.0.1:8000",
              upstream_time="0.002", service="wiki", client="100.64.0.7", user="", limit="",
              sent=100, uri="/", hours=0):  # fmt: skip
    return (
        f'{{"time":"{stamp(unix_s, hours)}","service":"{service}","client":"{client}","user":"{user}",'
        f'"method":"GET","host":"wiki.box.tail.test","uri":"{uri}","protocol":"HTTP/1.1",'
        f'"status":{status},"bytes":{sent},"request_time":{took},"upstream":"{upstream}",'
        f'"upstream_status":"{status}","upstream_response_time":"{upstream_time}",'
        f'"limit":"{limit}","agent":"curl/7.88.1"}}'
    ).encode()


def tcp_line(unix_s=NOW, *, status=200, took="1.500", upstream="127.0.0.1:5432", port=5432):
    return (
        f'{{"time":"{stamp(unix_s)}","port":{port},"client":"100.64.0.7","status":{status},"bytes":200,'
        f'"received":50,"session_time":{took},"upstream":"{upstream}"}}'
    ).encode()


def write_log(path, lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
