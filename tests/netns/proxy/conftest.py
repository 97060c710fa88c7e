"""A private host with a tailnet address, and a way to make the proxy part act on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from private_host import PrivateHost

HERE = Path(__file__).parent


class ProxyHost(PrivateHost):
    """The part, upstreams and a client of one private host."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[subprocess.Popen[str]] = []
        for address in ("100.64.0.1/32", "100.64.0.7/32", "fd7a:115c:a1e0::1/128"):
            self.run("ip", "address", "add", address, "dev", "lo")

    def order(self, op, **how):
        done = subprocess.run(
            self.argv(sys.executable, HERE / "proxy_driver.py"),
            input=json.dumps({"op": op, **how}),
            capture_output=True,
            text=True,
            timeout=120,
            env=self.env(),
            check=False,
        )
        if "die_after" in how:
            assert done.returncode == -signal.SIGKILL, done.stderr
            return {}
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def switch(self, yaml, **how):
        """A switch that must succeed and leave nothing to do."""
        answer = self.order("switch", yaml=yaml, **how)
        assert "error" not in answer, answer
        assert answer["after"] == []
        return answer

    def serve(self, *words):
        """An upstream: see upstream.py."""
        process = self.popen(sys.executable, HERE / "upstream.py", *words, stdout=subprocess.PIPE)
        assert process.stdout.readline() == "ready\n"
        self.started.append(process)
        return process

    def localapi(self, answers, certificates="/etc", *flags):
        """A fake LocalAPI that knows `answers`: address -> whois reply."""
        self.write("/etc/whois.json", json.dumps(answers))
        words = (sys.executable, HERE / "fake_localapi.py", "/run/tailscaled.sock", "/etc/whois.json")
        process = self.popen(*words, certificates, *flags, stdout=subprocess.PIPE)
        assert process.stdout.readline() == "ready\n"
        self.started.append(process)
        return process

    def pair(self, name, *names, days=30):
        """A self-signed pair in /etc/NAME.pem."""
        listed = ",".join(f"DNS:{each}" for each in names)
        self.run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", str(days), "-subj", "/CN=x", "-addext", f"subjectAltName={listed}",
            "-keyout", "/etc/pair.key", "-out", "/etc/pair.crt",
        )  # fmt: skip
        self.run("sh", "-c", f"cat /etc/pair.key /etc/pair.crt > '/etc/{name}.pem'")

    def curl(self, url, *words, name=None, address="100.64.0.1", check=True):
        """(status, body) of a request to `url`, its host resolved to `address`."""
        host, port = url.split("/")[2].partition(":")[::2]
        port = port or ("443" if url.startswith("https") else "80")
        done = self.run(
            "curl", "-sk", "--max-time", "10", "--resolve", f"{name or host}:{port}:{address}",
            "-w", "\n%{http_code}", *words, url, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, (done.returncode, done.stderr, done.stdout)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def nginx(self):
        """Start the distribution's nginx by hand; returns its workers."""
        self.run("nginx")
        return self.nginx_is_up()

    def nginx_is_up(self):
        """Wait for the distribution's nginx; returns its workers."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self.path("/run/nginx.pid").exists() and len(self.workers()) == os.cpu_count():
                return self.workers()
            time.sleep(0.01)
        raise AssertionError("nginx did not start")

    def workers(self):
        pid = self.path("/run/nginx.pid").read_text().strip()
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def close(self):
        for process in self.started:
            process.kill()
            process.wait()
            process.stdout.close()
        super().close()


@pytest.fixture
def host():
    made = ProxyHost()
    yield made
    made.close()
