"""From the file to the monitor's settings: here, or in a process that takes the model's memory with it.

That process writes an `Answer` to its stdout, pickled and in base64; who reads it has started it itself.
"""

from __future__ import annotations

import base64
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tsstack.errors import CommandFailed, ConfigError, Finding, TsstackError
from tsstack.monitor.choice import Policy
from tsstack.monitor.settings import TUNNEL, Settings, Standby, default_interface, judges_way
from tsstack.monitor.verdict import Limits
from tsstack.system import command

if TYPE_CHECKING:
    from tsstack.model.sections import Monitor
    from tsstack.model.stack import Stack

DEFAULT_TARGETS = ({"icmp": "1.1.1.1"}, {"icmp": "9.9.9.9"}, {"tcp": "1.1.1.1:443"})
"""Asked where no target of the file shows whether a way out works: two operators of public resolvers."""
_TIME_LIMIT_S = 60.0
_GIVEN = "--given"
# Not `-m`: this module would be `__main__`, whose classes the reader would not find.
_PROGRAM = "import sys; from tsstack.monitor.reading import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a file: its settings, or what is wrong with it."""

    settings: Settings | None
    message: str = ""
    hint: str = ""
    findings: tuple[Finding, ...] = ()


def read_apart(file: Path, source: bytes | None = None) -> Settings:
    """As `read_settings`, in a process of its own. Blocks.

    Raises ConfigError with every fault and its place, TsstackError when that process fails.
    """
    argv = [sys.executable, "-P", "-c", _PROGRAM, str(file), *([_GIVEN] if source is not None else [])]
    try:
        done = command.run(argv, stdin=_text_of(source or b""), timeout_s=_TIME_LIMIT_S)
    except CommandFailed as error:
        said = error.stderr.strip().splitlines()
        raise TsstackError(
            f"{file} could not be read: {said[-1] if said else error.message}", hint="tsstack check"
        ) from error
    answer: Answer = pickle.loads(_data_of(done.stdout))  # noqa: S301  our own child wrote it
    if answer.settings is None:
        raise ConfigError(answer.message, findings=answer.findings, hint=answer.hint)
    return answer.settings


def read_settings(file: Path, source: bytes | None = None) -> Settings:
    """Read the file, or `source` as if it were its content.

    Raises ConfigError with every fault and its place.
    """
    from tsstack import assets
    from tsstack.model.lint import lint
    from tsstack.model.loader import load_presets, load_stack, parse_stack

    presets = load_presets(assets.folder("zones"))
    loaded = load_stack(file, presets) if source is None else parse_stack(source, file, presets)
    findings = lint(loaded, None)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ConfigError(
            f"{file} has {'1 fault' if len(errors) == 1 else f'{len(errors)} faults'}", findings=findings
        )
    warnings = tuple(finding for finding in findings if finding.severity == "warning")
    return replace(settings_of(loaded.stack), findings=warnings)


def settings_of(stack: Stack) -> Settings:
    """The same from a stack that is at hand."""
    from tsstack.model.sections import Monitor
    from tsstack.monitor.probes.targets import plan_probes

    policy = Policy.of(stack)
    monitor = stack.monitor or Monitor()
    planned = plan_probes(stack, way=TUNNEL if policy else "")
    missing = policy is not None and not any(judges_way(each) for each in planned)
    if missing:
        ours = Monitor.model_validate({"targets": list(DEFAULT_TARGETS)}).targets
        monitor = monitor.model_copy(update={"targets": (*monitor.targets, *ours)})
        planned = plan_probes(stack.model_copy(update={"monitor": monitor}), way=TUNNEL)
    advertise = stack.tailscale.advertise if stack.tailscale else None
    return Settings(
        host=stack.host.name,
        limits=Limits.of(monitor),
        policy=policy,
        planned=planned,
        uplink=stack.host.uplink or default_interface(),
        uplink_is_named=stack.host.uplink is not None,
        on_tailnet=stack.tailscale is not None,
        routes=tuple(str(each) for each in advertise.routes) if advertise else (),
        standbys=tuple(_standbys(stack)),
        failover=monitor.failover,
        alerts=tuple(_alerts(monitor)),
        metrics=monitor.metrics,
        default_targets=missing,
    )


def _alerts(monitor: Monitor) -> Iterator[str | tuple[str, ...]]:
    for each in monitor.alerts:
        yield each if isinstance(each, str) else tuple(each.command)


def _standbys(stack: Stack) -> Iterator[Standby]:
    for key, service in (stack.proxy.services if stack.proxy else {}).items():
        first = next((i for i, each in enumerate(service.upstream) if not each.backup), None)
        backup = next((i for i, each in enumerate(service.upstream) if each.backup), None)
        if service.enabled and first is not None and backup is not None:
            yield Standby(key, f"service:{key}#{first}", f"service:{key}#{backup}")


def main(words: list[str]) -> int:
    """Of the process. What nobody foresaw ends it with a traceback."""
    source = _data_of(sys.stdin.read()) if _GIVEN in words[1:] else None
    try:
        answer = Answer(read_settings(Path(words[0]), source))
    except ConfigError as error:
        answer = Answer(None, error.message, error.hint, error.findings)
    sys.stdout.write(_text_of(pickle.dumps(answer)))
    return 0


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _data_of(text: str) -> bytes:
    return base64.b64decode(text)
