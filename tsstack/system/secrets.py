"""Secrets: sops files decrypted in memory, and files that hold one value.

sops does the decryption, as a process; what it prints is kept in memory and never shown. Its error text
may hold pieces of a file, so no message here repeats it: each failure is recognised by sops' exit code
(cmd/sops/codes/codes.go) and by fixed words, and told in our own.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tsstack.errors import CommandFailed, SecretError
from tsstack.system.command import Result, environment, run, which
from tsstack.system.files import read_bounded, write_durably

IDENTITY = Path("/etc/tsstack/age.key")
"""The host's own age identity, used when SOPS_AGE_KEY_FILE is not set."""

_IDENTITY_VARIABLE = "SOPS_AGE_KEY_FILE"
_EDIT_HINT = "write it with `tsstack secrets edit {file}`"
# A key is one line; anything longer is the wrong file.
_KEY_FILE_LIMIT_BYTES = 64 * 1024
_SECRETS_FILE_LIMIT_BYTES = 4 * 1024 * 1024
# sops puts the text being edited into a file below TMPDIR: a tmpfs keeps it off the disk.
_TMPFS = Path("/dev/shm")  # noqa: S108  (a tmpfs, not a file of a guessed name)
_EDITOR_VARIABLES = ("EDITOR", "SOPS_EDITOR", "VISUAL", "TERM", "LANG")


def identity_file() -> Path:
    """Where this process finds the host's age identity; the file need not exist."""
    return Path(os.environ.get(_IDENTITY_VARIABLE) or IDENTITY)


def read_secret(file: Path, key: str) -> str:
    """The value of `key` in the sops file, in any format sops knows; `a.b` is b below a.

    Raises SecretError, without any of the content, when the file or the key cannot be read.
    """
    return _value(_decrypt(file), file, key)


def check_secrets(file: Path, keys: Iterable[str]) -> Mapping[str, SecretError | None]:
    """Whether each key can be read: None for yes, else why not. No value leaves this function.

    Raises SecretError when the file as a whole cannot be decrypted.
    """
    content = _decrypt(file)
    problems: dict[str, SecretError | None] = {}
    for key in keys:
        try:
            _value(content, file, key)
            problems[key] = None
        except SecretError as error:
            problems[key] = error
    return problems


def read_key_file(path: Path) -> str:
    """The one line that a file of its own holds, without white space around it.

    Raises SecretError when the file is missing, unreadable, empty or more than one line.
    """
    text = _read_file(
        path, missing_hint="write the key into it and nothing else", limit_bytes=_KEY_FILE_LIMIT_BYTES
    ).strip()
    if not text:
        raise SecretError(f"the key file {path} is empty", hint="write the key into it and nothing else")
    if len(text.splitlines()) > 1:
        raise SecretError(
            f"the key file {path} holds more than one line", hint="write the key into it and nothing else"
        )
    return text


def prepare_edit(file: Path) -> tuple[list[str], dict[str, str]]:
    """Make sure that `file` can be edited; returns the argv and the whole environment of `sops edit`.

    On first use the host's age identity is made (0600), and a new file starts with an empty `authkey`.
    Raises SecretError when sops or age is missing, or a file cannot be written.
    """
    for program in ("sops", "age-keygen"):
        if which(program) is None:
            raise _not_installed(program)
    identity = identity_file()
    try:
        if not identity.exists():
            identity.parent.mkdir(parents=True, exist_ok=True)
            # age-keygen(1): -o makes the file 0600 and never overwrites one.
            run(["age-keygen", "-o", identity])
        if not file.exists():
            _create(file, recipient_of(identity))
    except OSError as error:
        raise SecretError(
            f"{error.filename or file} cannot be written: {error.strerror}", hint="run as root"
        ) from error
    except CommandFailed as error:
        raise SecretError(
            f"the age identity {identity} cannot be made or used", hint="run as root"
        ) from error
    env = environment({name: os.environ[name] for name in _EDITOR_VARIABLES if name in os.environ})
    env[_IDENTITY_VARIABLE] = str(identity)
    if _TMPFS.is_dir():
        env["TMPDIR"] = str(_TMPFS)
    return ["sops", "edit", str(file.absolute())], env


def recipient_of(identity: Path) -> str:
    """The public half of an age identity: what a file is encrypted to. Raises SecretError."""
    try:
        return run(["age-keygen", "-y", identity]).stdout.strip()
    except CommandFailed as error:
        if error.returncode == 126:  # the shell's word for what may not be run
            raise SecretError(error.message, hint=error.hint) from None
        if error.returncode == 127:
            raise _not_installed("age-keygen") from None
        raise SecretError(f"{identity} holds no age identity", hint=f"age-keygen -o {identity}") from None


def _create(file: Path, recipient: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    encrypted = run(
        ["sops", "encrypt", "--age", recipient, "--filename-override", file.absolute()], stdin=_template(file)
    )
    write_durably(file, encrypted.stdout, mode=0o600)


def _template(file: Path) -> str:
    if file.suffix == ".json":
        return '{"authkey": ""}\n'
    return "authkey=\n" if file.suffix == ".env" else 'authkey: ""\n'


def _read_file(path: Path, *, missing_hint: str, limit_bytes: int = _SECRETS_FILE_LIMIT_BYTES) -> str:
    try:
        return read_bounded(path, limit_bytes=limit_bytes).decode()
    except FileNotFoundError:
        raise SecretError(f"{path} does not exist", hint=missing_hint) from None
    except IsADirectoryError:
        raise SecretError(f"{path} is a folder, not a secrets file") from None
    except UnicodeDecodeError:
        raise SecretError(f"{path} is not text") from None
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EINVAL):
            hint = "a regular file is needed, with the key and nothing else, or encrypted by sops"
            raise SecretError(f"{path} is not read: {error.strerror}", hint=hint) from None
        raise SecretError(f"{path} cannot be read: {error.strerror}", hint="run as root") from None


def _decrypt(file: Path) -> dict[str, Any]:
    """The whole file in the clear, in memory."""
    if not _read_file(file, missing_hint=_EDIT_HINT.format(file=file)).strip():
        raise SecretError(
            f"{file} is malformed: it holds nothing",
            hint=f"restore it from a backup, or remove it and {_EDIT_HINT.format(file=file)}",
        )
    env = {}
    identity = identity_file()
    if _IDENTITY_VARIABLE in os.environ or identity.exists():
        env[_IDENTITY_VARIABLE] = str(identity)
    try:
        # An absolute path can never be taken for an option.
        result = run(["sops", "decrypt", "--output-type", "json", file.absolute()], env=env, check=False)
    except CommandFailed as error:
        if error.returncode == 126:  # the shell's word for what may not be run
            raise SecretError(error.message, hint=error.hint) from None
        if error.returncode == 127:
            raise _not_installed("sops") from None
        raise SecretError(f"sops did not finish reading {file}") from None
    if result.returncode != 0:
        raise _explain(file, identity, result)
    try:
        content = json.loads(result.stdout)
    except ValueError:
        content = None
    # The chained error would carry the clear text in its `doc`: it must not leave this function.
    if not isinstance(content, dict):
        raise SecretError(f"{file} holds no mapping of names to values", hint=_EDIT_HINT.format(file=file))
    return content


def _value(content: Mapping[str, Any], file: Path, key: str) -> str:
    value: Any = content.get(key)
    if value is None and "." in key:
        value = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        names = ", ".join(sorted(content)) or "no keys at all"
        raise SecretError(f"{file} has no key {key}; it has {names}", hint=_EDIT_HINT.format(file=file))
    if not isinstance(value, str):
        raise SecretError(f"{key} in {file} is not text", hint="write it as one string, in quotes")
    if not value.strip():
        raise SecretError(f"{key} in {file} is empty", hint=_EDIT_HINT.format(file=file))
    return value.strip()


def _explain(file: Path, identity: Path, result: Result) -> SecretError:
    """What a failed `sops decrypt` means, from its exit code and fixed words of its stderr."""
    if result.returncode == 128:
        return _explain_identity(file, identity, result.stderr)
    if result.returncode in (25, 51):
        return SecretError(
            f"{file} was changed after it was encrypted: a value does not pass its own check",
            hint=f"restore it from a backup, or {_EDIT_HINT.format(file=file)}",
        )
    if "sops metadata not found" in result.stderr:
        if b"ENC[" in file.read_bytes():  # its end is missing; nothing lay in the clear
            return SecretError(f"{file} is malformed: it is cut off", hint="restore it from a backup")
        return SecretError(
            f"{file} is not encrypted: it has no sops metadata",
            hint=f"sops encrypt -i --age RECIPIENT {file}; and replace the secrets that lay in the clear",
        )
    if "yaml:" in result.stderr or "unmarshal" in result.stderr:
        line = re.search(r"yaml: line (\d+)", result.stderr)
        place = f"{file}:{line[1]}" if line else str(file)
        return SecretError(f"{place} is malformed and cannot be parsed", hint="restore it from a backup")
    return SecretError(
        f"sops cannot decrypt {file} (it ended with {result.returncode})",
        hint=f"`sops decrypt {file}` says why; mind who can see your screen",
    )


def _explain_identity(file: Path, identity: Path, stderr: str) -> SecretError:
    # sops folds its lines at a fixed width, so fixed words may lie across two of them.
    said = " ".join(stderr.replace("|", " ").split())
    if "did not match any of the recipients" in said or "incorrect identity" in said:
        return SecretError(
            f"{file} is encrypted for another recipient: the identity {identity} does not open it",
            hint=f"let somebody who can open it run: sops rotate -i --add-age RECIPIENT {file}, with the "
            f"recipient that `age-keygen -y {identity}` prints",
        )
    if "failed to parse" in said or "unknown identity type" in said:
        return SecretError(
            f"{identity} is not an age identity", hint="it must hold a line AGE-SECRET-KEY-..."
        )
    return SecretError(
        f"no age identity to open {file} with: {identity} is missing or cannot be read",
        hint=f"put the identity at {IDENTITY}, or its path into {_IDENTITY_VARIABLE}",
    )


def _not_installed(program: str) -> SecretError:
    package = "age" if program.startswith("age") else program
    return SecretError(f"{program} is not installed", hint=f"install {package}")
