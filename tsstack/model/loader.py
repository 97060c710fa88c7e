"""From the file to the typed stack, with all of its faults in one run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsstack.errors import ConfigError, Finding
from tsstack.model import file_codes as codes
from tsstack.model import shape
from tsstack.model.document import Document, Node, Plain, parse_document, read_document, read_source
from tsstack.model.faults import findings_of, secrets_in, secrets_in_text
from tsstack.model.firewall import Zone
from tsstack.model.keypath import KeyPath, format_path
from tsstack.model.loaded import LoadedStack
from tsstack.model.names import fits
from tsstack.model.remains import Remains, take_out
from tsstack.model.stack import Stack
from tsstack.model.words import listed, nearest, show

__all__ = ["LoadedStack", "Presets", "load_presets", "load_stack", "parse_stack"]

Presets = Mapping[str, Mapping[str, Any]]

# Every key of the file that names another file. Relative ones count from the file's folder.
_FILE_KEYS: tuple[KeyPath, ...] = (
    ("secrets", "file"),
    ("tailscale", "auth_key", "file"),
    ("proxy", "tls", "certificate"),
    ("proxy", "tls", "key"),
)


def load_presets(folder: Path) -> dict[str, dict[str, Any]]:
    """The zone presets of a folder: name (the file's stem) -> what the preset writes.

    Raises ConfigError with every fault of every preset, each with its place in its own file.
    """
    from pydantic import ValidationError

    presets: dict[str, dict[str, Any]] = {}
    findings: list[Finding] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            document = read_document(path)
        except ConfigError as error:
            findings += error.findings
            continue
        findings += document.findings
        data = document.plain()
        try:
            Zone.model_validate(data, strict=True)
        except ValidationError as error:
            findings += findings_of(error.errors(include_url=False), document, Zone)
        presets[path.stem] = data
    if findings:
        raise ConfigError(f"{folder}: {_count(len(findings))} in the zone presets", findings=findings)
    return presets


def load_stack(path: Path, presets: Presets) -> LoadedStack:
    """Read a file and check it as far as that goes without knowing the machine.

    Raises ConfigError whose findings are all faults of the file in its own order: of the text, of keys
    and values, and those contradictions that do not rest on what is faulty. A file that loads may still
    have findings across sections: `tsstack.model.lint.lint`.
    """
    return parse_stack(read_source(path), path, presets)


def parse_stack(source: bytes, path: Path, presets: Presets) -> LoadedStack:
    """The same for bytes that are at hand; `path` says where they would lie. Raises ConfigError."""
    try:
        document = parse_document(source, str(path))
    except ConfigError as error:
        raise _with_secrets(error, source, str(path)) from None
    return _loaded(document, path, presets)


def _with_secrets(error: ConfigError, source: bytes, file: str) -> ConfigError:
    findings = (*error.findings, *secrets_in_text(source, file))
    return ConfigError(error.message, findings=findings, hint=error.hint)


def _loaded(document: Document, path: Path, presets: Presets) -> LoadedStack:
    from pydantic import ValidationError

    findings = [*document.findings, *secrets_in(document)]
    data = document.plain()
    data = without_absent(data)
    findings += _merge_presets(data, presets, document)
    # A wrong preset is out of the data already; its zone is not what it was meant to be.
    faulty = {document.split(finding.path) for finding in findings if finding.path}
    remains: Remains | None = None
    try:
        stack = Stack.model_validate(data, strict=True)
    except ValidationError as error:
        findings += findings_of(error.errors(include_url=False), document, Stack)
    if any(finding.severity == "error" for finding in findings):
        remains = take_out(data, faulty)
        stack = remains.stack
    folder = path.absolute().parent
    stack, wrong_paths = _resolve_paths(stack, folder, document)
    findings += wrong_paths
    digest = hashlib.sha256(document.source).hexdigest()
    loaded = LoadedStack(stack, path, document.source, digest, document)
    if any(finding.severity == "error" for finding in findings):
        from tsstack.model.lint import lint_intact

        findings += lint_intact(loaded, remains or Remains(stack, frozenset(), {}))
        raise _refusal(document.file, findings)
    return loaded


def _refusal(file: str, findings: list[Finding]) -> ConfigError:
    secret_places = {(f.line, f.column) for f in findings if f.code == codes.LITERAL_SECRET.code}
    # What else is wrong with a value that is a secret does not matter, and says too much about it.
    kept = [
        f for f in findings if f.code == codes.LITERAL_SECRET.code or (f.line, f.column) not in secret_places
    ]
    ordered = sorted(dict.fromkeys(kept), key=lambda finding: (finding.line, finding.column))
    errors = sum(finding.severity == "error" for finding in ordered)
    return ConfigError(f"{file} is not valid: {_count(errors)}", findings=ordered)


def _count(faults: int) -> str:
    return "1 fault" if faults == 1 else f"{faults} faults"


def without_absent(data: dict[str, Plain]) -> dict[str, Plain]:
    """The data without sections that hold nothing: `dns:` with all its keys commented out is absent.

    Generated JSON writes null for options that are not set, so the same goes for the keys of sections.
    """
    return _clean_mapping(data, (Stack,))


def _clean_mapping(data: dict[str, Plain], kinds: tuple[Any, ...]) -> dict[str, Plain]:
    closed = bool(shape.sections(kinds))
    result: dict[str, Plain] = {}
    for key, value in data.items():
        inner = shape.below_all(kinds, key)
        if value is None and closed:
            continue
        # A zone that writes nothing is a zone all the same: `isolated:` has its preset.
        result[key] = {} if value is None and Zone in inner else _clean(value, inner)
    return result


def _clean(value: Plain, kinds: tuple[Any, ...]) -> Plain:
    if isinstance(value, dict):
        return _clean_mapping(value, kinds)
    if isinstance(value, tuple):
        inner = shape.below_all(kinds, 0)
        return tuple(_clean(item, inner) for item in value)
    return value


def _merge_presets(data: dict[str, Plain], presets: Presets, document: Document) -> list[Finding]:
    """Put each zone on top of its preset, in place. Returns what names no preset."""
    firewall = data.get("firewall")
    zones = firewall.get("zones") if isinstance(firewall, dict) else None
    if not isinstance(zones, dict):
        return []
    findings: list[Finding] = []
    for name, zone in zones.items():
        if not isinstance(zone, dict):
            continue
        wanted = zone.get("preset", name)
        if isinstance(wanted, str) and wanted in presets:
            zones[name] = {**presets[wanted], **zone, "preset": wanted}
        elif "preset" in zone:
            node = document.node(("firewall", "zones", name, "preset"))
            findings.append(_no_preset(wanted, name, node, presets, document))
            # It is reported here, with what there is; the type would only repeat it.
            zones[name] = {key: value for key, value in zone.items() if key != "preset"}
    return findings


def _no_preset(wanted: Plain, zone: str, node: Node | None, presets: Presets, document: Document) -> Finding:
    code = codes.NOT_A_PRESET
    path: KeyPath = ("firewall", "zones", zone, "preset")
    known = listed(sorted(presets)) if presets else "nothing"
    message = f"found {show(wanted, node.text if node else '')}; {known} is needed"
    hint = nearest(wanted, presets) if isinstance(wanted, str) else ""
    return Finding(
        code.code, code.severity, format_path(path), message, hint, *document.place(path, value=True)
    )


def _resolve_paths(stack: Stack, folder: Path, document: Document) -> tuple[Stack, list[Finding]]:
    """Relative paths of files, counted from `folder`."""
    findings: list[Finding] = []
    for steps in _FILE_KEYS:
        written = _value_at(stack, steps)
        if not isinstance(written, str) or written.startswith("/"):
            continue
        resolved = str(folder / written)
        if fits("path", resolved):
            stack = _replaced(stack, steps, resolved)
            continue
        code = codes.FOLDER_NAME
        message = "the folder of this file has a name that cannot be used in a path"
        hint = "move the file to a folder of letters, digits and . _ + @ -, or write the whole path"
        place = document.place(steps, value=True)
        findings.append(Finding(code.code, code.severity, format_path(steps), message, hint, *place))
    return stack, findings


def _value_at(section: Any, steps: KeyPath) -> Any:
    for step in steps:
        section = getattr(section, str(step), None)
    return section


def _replaced(section: Any, steps: KeyPath, value: str) -> Any:
    first, *rest = steps
    below = value if not rest else _replaced(getattr(section, str(first)), tuple(rest), value)
    return section.model_copy(update={str(first): below})
