"""The one place that starts other programs.

Argument lists only, never a shell. The environment is passed on purpose: engines get PATH, HOME and a
C locale, so that nothing secret in our own environment reaches them and their messages can be parsed.
"""

from __future__ import annotations

import os
import subprocess
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
    except FileNotFoundError as error:
        raise CommandFailed(
            f"{words[0]} is not installed", returncode=127, stderr="", hint=f"install {words[0]}"
        ) from error
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


def _last_words(result: Result) -> str:
    """What a failed program says of itself: its last line; of JSON all, since its last line is a brace."""
    lines = result.stderr.strip().splitlines() or result.stdout.strip().splitlines() or ["no message"]
    if lines[-1].strip() not in {"}", "]"}:
        return lines[-1]
    return " ".join(line.strip() for line in lines)[:2000]


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
        except FileNotFoundError as error:
            raise CommandFailed(
                f"{words[0]} is not installed", returncode=127, stderr="", hint=f"install {words[0]}"
            ) from error
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
    except FileNotFoundError as error:
        raise CommandFailed(
            f"{words[0]} is not installed", returncode=127, stderr="", hint=f"install {words[0]}"
        ) from error
