"""The one place that starts other programs.

Argument lists only, never a shell. The environment is passed on purpose: engines get PATH, HOME and a
C locale, so that nothing secret in our own environment reaches them and their messages can be parsed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tsstack.errors import CommandFailed

# Debian's daemons live in sbin, which a user's PATH may lack.
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

Process = subprocess.Popen[bytes]
"""A running program with its pipes, as `popen` gives it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished program said: its exit code and its two streams as text."""

    returncode: int
    stdout: str
    stderr: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that engines get: PATH with sbin, HOME, a C locale, and `extra`."""
    path = os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    env = {"PATH": f"{path}:{_SBIN}", "LC_ALL": "C.UTF-8"}
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR"):
        if name in os.environ:
            env[name] = os.environ[name]
    if extra:
        env.update(extra)
    return env


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    pass_fds: Sequence[int] = (),
) -> Result:
    """Run a program to its end and return what it said.

    Blocks for at most `timeout_s`. Raises CommandFailed when the program is missing, times out, or
    (with `check`) ends non-zero; the message names the program and its last line of stderr.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment(env),
            check=False,
            pass_fds=tuple(pass_fds),
        )
    except (FileNotFoundError, PermissionError) as error:
        raise _unstarted(words[0], error) from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(
            f"{words[0]} did not finish within {timeout_s:g} s", returncode=-1, stderr=""
        ) from error
    result = Result(done.returncode, done.stdout, done.stderr)
    if check and result.returncode != 0:
        raise CommandFailed(
            f"{words[0]} ended with {result.returncode}: {_last_words(result)}",
            returncode=result.returncode,
            stderr=result.stderr,
        )
    return result


def _unstarted(program: str, error: FileNotFoundError | PermissionError) -> CommandFailed:
    """As a shell ends: 127 where there is no such program, 126 where it is not for this user."""
    if isinstance(error, PermissionError):
        words, hint = f"{program} may not be run by this user", f"ls -l $(type -P {program}); try with sudo"
        return CommandFailed(words, returncode=126, stderr="", hint=hint)
    return CommandFailed(f"{program} is not installed", returncode=127, stderr="", hint=f"install {program}")


def _last_words(result: Result) -> str:
    """What a failed program says of itself: its last line; of JSON all, since its last line is a brace."""
    lines = result.stderr.strip().splitlines() or result.stdout.strip().splitlines() or ["no message"]
    if lines[-1].strip() not in {"}", "]"}:
        return lines[-1]
    return " ".join(line.strip() for line in lines)[:2000]


def run_limited(
    argv: Sequence[str | Path],
    *,
    stdin: str,
    timeout_s: float,
    most_bytes: int = 65536,
) -> Result:
    """Run somebody else's program that nothing is known of: bounded in time and in what it may say.

    Of each stream the last `most_bytes` are kept. It is in a session of its own, and at the time limit it is
    killed with all that it started there. What it left running in the background when it ended by itself is
    left alone, and not waited for. Any exit code is a Result. Raises CommandFailed when the program cannot
    be started or times out.
    """
    words = [str(word) for word in argv]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(
            f"{words[0]} cannot be run: {(error.strerror or str(error)).lower()}",
            returncode=127,
            stderr="",
            hint=f"install {words[0]}, or make it executable",
        ) from error
    with process:
        try:
            said = _talk(process, stdin.encode(), time.monotonic() + timeout_s, most_bytes)
        except TimeoutError as error:
            raise CommandFailed(
                f"{words[0]} did not finish within {timeout_s:g} s", returncode=-1, stderr=""
            ) from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    out, err = (each.decode(errors="replace") for each in said)
    return Result(process.returncode, out, err)


def _talk(process: Process, stdin: bytes, deadline_s: float, most_bytes: int) -> tuple[bytes, bytes]:
    """Feed a program and take what it says until it has ended; TimeoutError when it has not by then."""
    import selectors

    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ValueError("a talk needs three pipes")
    said = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    with selectors.DefaultSelector() as selector:
        for reader in said:
            selector.register(reader, selectors.EVENT_READ)
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin.fileno(), selectors.EVENT_WRITE)
        while True:
            ended = process.poll() is not None
            turn_s = 0.0 if ended else min(0.1, deadline_s - time.monotonic())
            if turn_s < 0:
                raise TimeoutError
            read = False
            for key, _ in selector.select(turn_s):
                if key.fd in said:
                    piece = os.read(key.fd, 65536)
                    said[key.fd] = (said[key.fd] + piece)[-most_bytes:]
                    read = read or bool(piece)
                    if not piece:
                        selector.unregister(key.fd)
                elif stdin := _fed(key.fd, stdin):
                    continue
                else:
                    selector.unregister(key.fd)
                    process.stdin.close()
            if ended and (not read or time.monotonic() > deadline_s):
                return said[process.stdout.fileno()], said[process.stderr.fileno()]


def _fed(descriptor: int, data: bytes) -> bytes:
    """What is left to write; nothing when the reader is gone."""
    try:
        return data[os.write(descriptor, data[:65536]) :] if data else b""
    except BrokenPipeError:
        return b""


def start(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> int:
    """Start a long-lived program in its own session, its output appended to `log`; return its pid.

    The program outlives us: it is in a session of its own, so a SIGHUP to our terminal misses it.
    Raises CommandFailed when the program is missing.
    """
    words = [str(word) for word in argv]
    with log.open("ab") as out:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment(env),
                cwd=cwd,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise _unstarted(words[0], error) from error
    # The child is meant to outlive us; without this, Python warns about it when the object goes.
    process.returncode = 0
    return process.pid


def which(program: str) -> Path | None:
    """Where `program` is found on the engines' PATH, or None."""
    import shutil

    found = shutil.which(program, path=environment()["PATH"])
    return Path(found) if found else None


def replace_process(argv: Sequence[str | Path], *, env: Mapping[str, str], title: str = "") -> NoReturn:
    """Become another program: its exit code, streams and terminal are then ours (execve(2)).

    `env` is its whole environment. `title` replaces argv[0], which is what process lists show.
    Raises CommandFailed when the program is missing.
    """
    words = [str(word) for word in argv]
    program = which(words[0])
    if program is None:
        raise CommandFailed(
            f"{words[0]} is not installed", returncode=127, stderr="", hint=f"install {words[0]}"
        )
    os.execve(program, [title or words[0], *words[1:]], dict(env))  # noqa: S606  the point of it


def run_attached(argv: Sequence[str | Path], *, env: Mapping[str, str]) -> int:
    """Run a program on our own terminal (an editor) and return its exit code. `env` is its environment.

    Raises CommandFailed when the program is missing.
    """
    words = [str(word) for word in argv]
    program = which(words[0])
    if program is None:
        raise CommandFailed(
            f"{words[0]} is not installed", returncode=127, stderr="", hint=f"install {words[0]}"
        )
    return subprocess.run([str(program), *words[1:]], env=dict(env), check=False).returncode


def run_until(argv: Sequence[str | Path], *, env: Mapping[str, str], phrase: str) -> int | None:
    """Run a program that nobody can answer; it is ended when it says `phrase`, and None returned.

    What it says is not shown. Otherwise returns its exit code. Raises CommandFailed when it is missing.
    """
    words = [str(word) for word in argv]
    program = which(words[0])
    if program is None:
        raise CommandFailed(
            f"{words[0]} is not installed", returncode=127, stderr="", hint=f"install {words[0]}"
        )
    with subprocess.Popen(
        [str(program), *words[1:]],
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        said = b""
        while process.stdout and (piece := os.read(process.stdout.fileno(), 4096)):
            said = said[-len(phrase) :] + piece
            if phrase.encode() in said:
                process.kill()
                return None
    return process.returncode


def popen(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> Process:
    """Start a program that the caller talks to and waits for: three pipes of bytes.

    The caller owns it and must wait for it. Raises CommandFailed when the program is missing.
    """
    words = [str(word) for word in argv]
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env),
        )
    except (FileNotFoundError, PermissionError) as error:
        raise _unstarted(words[0], error) from error
