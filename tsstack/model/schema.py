"""The file's JSON Schema, for editors, and its reference page, for people. Both from the types alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tsstack.model import shape
from tsstack.model.firewall import Firewall, ForwardRule, Zone
from tsstack.model.proxy import Proxy, Service, TlsFiles
from tsstack.model.section import Section
from tsstack.model.sections import (
    Advertise,
    AlertCommand,
    BandwidthLimit,
    Dns,
    ExitNodeUse,
    Host,
    Kernel,
    Monitor,
    SecretRef,
    Secrets,
    Tailscale,
    Target,
)
from tsstack.model.stack import Stack
from tsstack.model.units import duration_text

DRAFT = "https://json-schema.org/draft/2020-12/schema"

# Keys where a single value may stand for a list of one.
_LIST_OR_ONE = {("Service", "upstream"), ("ExitNodeUse", "use")}
# What the types check among several keys.
_TOGETHER: dict[str, dict[str, Any]] = {
    "SecretRef": {"oneOf": [{"required": ["secret"]}, {"required": ["file"]}]},
    "BandwidthLimit": {"anyOf": [{"required": ["egress"]}, {"required": ["ingress"]}]},
    "Target": {"oneOf": [{"required": [kind]} for kind in ("icmp", "tcp", "https", "dns")]},
}
# The order of the reference page; every section of the file must be here.
_PAGES: tuple[tuple[str, type[Section]], ...] = (
    ("", Stack),
    ("host", Host),
    ("secrets", Secrets),
    ("tailscale", Tailscale),
    ("tailscale.auth_key", SecretRef),
    ("tailscale.advertise", Advertise),
    ("tailscale.exit_node", ExitNodeUse),
    ("proxy", Proxy),
    ("proxy.tls", TlsFiles),
    ("proxy.services.NAME", Service),
    ("firewall", Firewall),
    ("firewall.zones.NAME", Zone),
    ("firewall.forward[]", ForwardRule),
    ("dns", Dns),
    ("kernel", Kernel),
    ("bandwidth.INTERFACE", BandwidthLimit),
    ("monitor", Monitor),
    ("monitor.targets[]", Target),
    ("monitor.alerts[]", AlertCommand),
)


def json_schema() -> dict[str, Any]:
    """The schema of the whole file, draft 2020-12, with the keys as the file spells them."""
    schema = Stack.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = schema.get("$defs", {})
    sections = {section.__name__: section for _, section in _PAGES}
    for name, definition in {**definitions, "Stack": schema}.items():
        if name in sections:
            _describe(definition, sections[name])
            definition.update(_TOGETHER.get(name, {}))
        for node in _nodes(definition):
            _tidy(node)
    for name, key in _LIST_OR_ONE:
        listed = definitions[name]["properties"][key]
        about = {word: listed.pop(word) for word in ("description", "default") if word in listed}
        definitions[name]["properties"][key] = {**about, "anyOf": [listed, listed["items"]]}
    servers = definitions["Dns"]["properties"]["split"]["patternProperties"]
    for pattern, listed in servers.items():
        servers[pattern] = {"anyOf": [listed, listed["items"]]}
    zones = definitions["Firewall"]["properties"]["zones"]["patternProperties"]
    for pattern, zone in zones.items():
        zones[pattern] = {"anyOf": [zone, {"type": "null"}]}
    return {"$schema": DRAFT, **schema, "title": "tsstack.yaml"}


def _describe(definition: dict[str, Any], section: type[Section]) -> None:
    texts = shape.docstrings(section)
    fields = {info.alias or name: info for name, info in section.model_fields.items()}
    definition["description"] = " ".join((section.__doc__ or "").split())
    for key, described in definition["properties"].items():
        described["description"] = texts.get(key, "")
        if "default" in described:
            described["default"] = _written(described["default"], fields[key].metadata, described)


def _written(default: Any, metadata: list[Any], described: dict[str, Any]) -> Any:
    """A default as one would write it in the file: seconds as `30s`, per cent as `5%`."""
    example = str(next(iter(described.get("examples", ())), ""))
    if isinstance(default, float) and example.endswith("%"):
        return f"{default:g}%"
    if isinstance(default, float) and metadata and example.endswith("s"):
        return duration_text(default)
    return {} if isinstance(default, dict) else default


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for below in value.values():
            yield from _nodes(below)
    elif isinstance(value, list):
        for below in value:
            yield from _nodes(below)


def _tidy(node: dict[str, Any]) -> None:
    if isinstance(node.get("title"), str):
        del node["title"]
    if node.get("type") == "array" and "minLength" in node:
        node["minItems"] = node.pop("minLength")
    if isinstance(node.get("patternProperties"), dict):
        node["additionalProperties"] = False


def render_reference() -> str:
    """The reference page of the file, in Markdown: every key, its form, its default, its meaning."""
    schema = json_schema()
    lines = [
        "# The file",
        "",
        "Every key of `tsstack.yaml`. YAML 1.2, so JSON is valid too. Unknown keys are refused.",
        "Relative paths count from the folder of the file. An empty section counts as absent.",
        "This page is made from the types; `tsstack schema` prints the same as a JSON Schema.",
    ]
    for path, section in _PAGES:
        definition = schema if section is Stack else schema["$defs"][section.__name__]
        lines += ["", f"## `{path}`" if path else "## Sections", "", definition["description"], ""]
        lines += ["| key | form | default | meaning |", "|---|---|---|---|"]
        needed = set(definition.get("required", ()))
        for key, described in definition["properties"].items():
            default = "needed" if key in needed else _default_text(described.get("default"))
            cells = (f"`{key}`", _form(described), default, described["description"])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default_text(default: Any) -> str:
    if default is None or default in ({}, []):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


_TYPE_NAMES = {"integer": "number", "boolean": "`true`, `false`", "object": "mapping", "string": "text"}


def _form(node: dict[str, Any]) -> str:
    """The form of a value in a few words."""
    form = _TYPE_NAMES.get(str(node.get("type")), "mapping")
    if "anyOf" in node:
        arms = [_form(arm) for arm in node["anyOf"] if arm.get("type") != "null"]
        form = " or ".join(dict.fromkeys(arms))
    elif "const" in node or "enum" in node:
        form = ", ".join(f"`{word}`" for word in node.get("enum", [node.get("const")]))
    elif "items" in node:
        form = f"list of {_form(node['items'])}"
    elif "examples" in node:
        form = ", ".join(f"`{example}`" for example in node["examples"])
    elif "minimum" in node and "maximum" in node:
        form = f"number, {node['minimum']} to {node['maximum']}"
    return form
