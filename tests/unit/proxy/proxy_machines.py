"""Facts of machines that the tests render for."""

from __future__ import annotations

from tsstack.model.facts import NginxFacts

DEBIAN_12 = NginxFacts(
    (1, 22, 1),
    stream_module="/usr/lib/nginx/modules/ngx_stream_module.so",
    main_config="/etc/nginx/nginx.conf",
    stream_loaded=True,
    modules_enabled=True,
    directives=("events", "http", "pid", "user"),
    default_servers=("80", "[::]:80"),
)
ADDRESSES = ("100.64.0.1", "fd7a:115c:a1e0::1")
