"""Runs tsstack's verbs inside a machine in forks of a process that has imported everything already.

vm_verbs.py FILE     FILE is looked at once, so that the models are built

In plain emulation the imports of a verb take a hundred times as long as the change that it makes. The
forks run the same code; they only do not spend that time before. A request is JSON, with two descriptors
beside it (stdout, stderr); its answer is the exit code.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import sys

SOCKET = "/run/vm-verbs.sock"


def _call(words: list[str]) -> int:
    from tsstack.cli.main import run

    try:
        return run(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0


def warm(file: str) -> None:
    """Import what any verb may need, and build what is built once."""
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as tsstack.cli.main has it
    importlib.import_module("tsstack.cli.change")
    for package in ("parts", "switch", "system"):
        top = importlib.import_module(f"tsstack.{package}")
        for module in pkgutil.walk_packages(top.__path__, f"{top.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        _call(["-c", file, "dry-activate"])


def serve() -> None:
    """Answer one request after another, each in a fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{SOCKET}.new")
    listener.listen()
    os.rename(f"{SOCKET}.new", SOCKET)  # noqa: PTH104  the name appears when it is served
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(client)
        client.close()


def _answer(client: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, (out, err), *_ = socket.recv_fds(client, 65536, 2)
    pid = os.fork()
    if pid == 0:
        client.close()
        os.setsid()
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.closerange(3, 64)
        code = 1
        try:
            code = _call(json.loads(data))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(out)
    os.close(err)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        client.sendall(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode())
    os._exit(0)


if __name__ == "__main__":
    warm(sys.argv[1])
    serve()
