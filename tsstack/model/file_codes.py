"""The codes of faults in the file as such, and in single keys and values."""

from __future__ import annotations

from tsstack.model.code import declare

UNREADABLE = declare(
    "TS001",
    "error",
    "The file cannot be read",
    "The file is missing, is a folder, or may not be read by this user. Nothing was changed.",
    "tsstack -c /etc/tsstack check",
    "tsstack -c /etc/tsstack/tsstack.yaml check",
)
NOT_UTF8 = declare(
    "TS002",
    "error",
    "The file is not UTF-8",
    "YAML files are UTF-8. The place is that of the first byte that is not. Editors that save Latin-1 or "
    "UTF-16 cause this.",
    "a file saved as UTF-16",
    "iconv -f UTF-16 -t UTF-8 old.yaml > tsstack.yaml",
)
EMPTY = declare(
    "TS003",
    "error",
    "The file is empty",
    "There is nothing but comments in it. An empty file is refused, because switching to it would take "
    "away everything that tsstack manages.",
    "# host: {name: kernelcore}",
    "host: {name: kernelcore}",
)
SYNTAX = declare(
    "TS004",
    "error",
    "The file is not valid YAML",
    "The text cannot be read as YAML 1.2. Only the first such fault can be told, as nothing behind it can "
    "be understood. A quote or bracket that is never closed is shown where it opens.",
    "tcp: [80, 443",
    "tcp: [80, 443]",
)
TAB = declare(
    "TS005",
    "error",
    "A tab stands where only spaces may",
    "YAML 1.2 section 6.1 forbids tabs in indentation, because editors show them at different widths.",
    "firewall:\n\tlog: true",
    "firewall:\n  log: true",
)
DUPLICATE_KEY = declare(
    "TS006",
    "error",
    "A key stands twice",
    "Two equal keys in one mapping: many programs silently take the last. tsstack refuses, as either could "
    "be the one that was meant.",
    "zones:\n  dmz: {tcp: [80]}\n  dmz: {tcp: [443]}",
    "zones:\n  dmz: {tcp: [80, 443]}",
)
SEVERAL_DOCUMENTS = declare(
    "TS007",
    "error",
    "The file holds several documents",
    "One file is one host. A line of three hyphens starts a second document, which would be ignored.",
    "host: {name: a}\n---\nfirewall: {}",
    "host: {name: a}\nfirewall: {}",
)
TOO_LARGE = declare(
    "TS008",
    "error",
    "The file is too large or nested too deeply",
    "There are limits on bytes (16 MiB), depth (40 levels) and values once aliases are written out "
    "(500,000), so that no file can exhaust the memory of the host.",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]    # and so on",
    "lists written out",
)
MERGE_KEY = declare(
    "TS009",
    "error",
    "A merge key is used",
    "`<<` belongs to YAML 1.1 and was dropped from 1.2. Whole values can still be repeated by alias.",
    "b: {<<: *defaults, upstream: 8000}",
    "b: {rate_limit: 20r/s, upstream: 8000}",
)
BAD_TAG = declare(
    "TS010",
    "error",
    "A tag or directive is not understood",
    "Only the core tags (!!str, !!int, !!float, !!bool, !!null, !!seq, !!map) and %YAML 1.2 are known. "
    "Nothing in the file can name code or types.",
    "name: !env HOSTNAME",
    "name: kernelcore",
)
KEY_NOT_TEXT = declare(
    "TS011",
    "error",
    "A key is not plain text",
    "A mapping, list or alias stands where a key is needed.",
    "? [a, b]\n: [tcp/8000]",
    "a: [tcp/8000]\nb: [tcp/8000]",
)
BAD_ALIAS = declare(
    "TS012",
    "error",
    "An alias leads nowhere",
    "`*name` repeats the value that was marked `&name` further up. Here there is no such mark, or the "
    "alias stands inside the very value it repeats.",
    "tcp: *ports",
    "tcp: &ports [80, 443]\nudp: *ports",
)
CONTROL_CHARACTER = declare(
    "TS013",
    "error",
    "A control character stands in the file",
    "YAML 1.2 section 5.1 allows only printable characters, tabs and line ends. This one is often left by a "
    "terminal or by a damaged copy.",
    "name: kernel^Hcore",
    "name: kernelcore",
)
NOT_A_MAPPING = declare(
    "TS014",
    "error",
    "The file is not a mapping of sections",
    "At the top there must be sections with their keys, not a list and not a single value.",
    "- host: {name: kernelcore}",
    "host: {name: kernelcore}",
)

UNKNOWN_KEY = declare(
    "TS101",
    "error",
    "A key is not known here",
    "Every key is known or refused, so that a typo is not silently a default. The finding lists what is "
    "known at this place, and the nearest of it.",
    "zones:\n  dmz: {interface: [eth0]}",
    "zones:\n  dmz: {interfaces: [eth0]}",
)
MISSING_KEY = declare(
    "TS102",
    "error",
    "A needed key is missing",
    "The key has no sensible default. The place is that of the mapping that lacks it.",
    "forward:\n  - {from: internal, services: [https]}",
    "forward:\n  - {from: internal, to: dmz, services: [https]}",
)
WRONG_TYPE = declare(
    "TS103",
    "error",
    "The value has the wrong type",
    "For example a text where a list is needed. Note YAML 1.2: only `true` and `false` are booleans; `yes`, "
    "`no`, `on` and `off` are texts. Numbers in quotes are texts too.",
    "tailscale: {ssh: yes}",
    "tailscale: {ssh: true}",
)
BAD_VALUE = declare(
    "TS104",
    "error",
    "The value is not in the form that is needed",
    "Names, addresses, ports and values with units each have one form and one alphabet. The alphabets hold "
    "no quote, brace, semicolon, dollar sign or line end, so no value can become syntax of nginx or nft.",
    "monitor: {interval: 30}",
    "monitor: {interval: 30s}",
)
OUT_OF_RANGE = declare(
    "TS105",
    "error",
    "The number or list is out of its bounds",
    "The value has the right form but is too small, too large, too long or too short.",
    "monitor: {failures: 0}",
    "monitor: {failures: 3}",
)
NOT_ONE_OF = declare(
    "TS106",
    "error",
    "The value is none of the choices",
    "Only the listed words are allowed here, in lower case. The finding names the nearest of them.",
    "proxy: {names: subdomains}",
    "proxy: {names: subdomain}",
)
BAD_KEY_NAME = declare(
    "TS107",
    "error",
    "A name is not in the form that is needed",
    "Names of zones, services, interfaces and domains become names in nft and nginx, so each has its own "
    "alphabet.",
    "services:\n  My Wiki: {upstream: 8000}",
    "services:\n  my-wiki: {upstream: 8000}",
)
CONFLICTING_KEYS = declare(
    "TS108",
    "error",
    "Keys of one mapping do not go together",
    "Each key is valid alone, but together they say nothing or two things at once.",
    "auth_key: {secret: authkey, file: /run/keys/ts}",
    "auth_key: {secret: authkey}",
)
LITERAL_SECRET = declare(
    "TS109",
    "error",
    "A secret is written into the file",
    "The file is readable by many and is copied into generations and backups, so it holds no keys, not even "
    "in a comment. Treat this key as known to others: revoke it. The value itself is never printed.",
    "auth_key: tskey-...",
    "auth_key: {secret: authkey}",
)
NOT_A_PRESET = declare(
    "TS110",
    "error",
    "There is no such preset",
    "A zone's `preset` names a file of the zones folder.",
    "zones:\n  guests: {preset: isolate}",
    "zones:\n  guests: {preset: isolated}",
)
FOLDER_NAME = declare(
    "TS111",
    "error",
    "A path leads through a folder whose name cannot be used",
    "Relative paths count from the folder of the file. That folder's own name holds a character (a space, a "
    "quote) that must not reach nginx or a unit file.",
    "tsstack -c '/srv/my files/tsstack.yaml' check",
    "tsstack -c /srv/files/tsstack.yaml check",
)
EMPTY_SECTION = declare(
    "TS112",
    "warning",
    "A section is empty",
    "The section's key is there with nothing below it, so the section counts as absent and tsstack leaves "
    "that subsystem alone. An empty `firewall:` means that there is no firewall.",
    "firewall:\n#  default_policy: drop",
    "firewall: {}",
)
