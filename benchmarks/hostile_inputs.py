"""Hostile files without end, from a seed: damaged bytes, damaged YAML, and hostile values in every place."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hostile_words import FULL, HOSTILE, TOKENS, VARIANTS, Tree

Path = tuple[str | int, ...]

_TOKEN = re.compile(r"[A-Za-z0-9_./-]+|\s+|.", re.DOTALL)
_ENCODINGS = (
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "utf-8-sig",
    "latin-1",
    "cp1252",
    "utf-7",
    "cp037",
)
_PLAIN = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./@%+-]*")


@dataclass(frozen=True, slots=True)
class Input:
    """One file, and what was done to make it."""

    kind: str
    source: bytes


def leaves(value: Tree, path: Path = ()) -> Iterator[Path]:
    """The paths of all that holds nothing else."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from leaves(below, (*path, key))
    elif isinstance(value, list) and value:
        for index, below in enumerate(value):
            yield from leaves(below, (*path, index))
    else:
        yield path


def containers(value: Tree, path: Path = ()) -> Iterator[Path]:
    """The paths of all mappings and lists, the root first."""
    if isinstance(value, dict | list):
        yield path
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from containers(below, (*path, key))


def at(tree: Tree, path: Path) -> Tree:
    """What stands at a path."""
    for step in path:
        tree = tree[step]
    return tree


class Generator:
    """An endless stream of inputs; the same seed and the same seeds files give the same stream.

    `texts` are files that are damaged as they stand, beside the ones that are made from FULL.
    """

    def __init__(self, seed: int, texts: tuple[bytes, ...]) -> None:
        self.chance = random.Random(seed)  # noqa: S311  a sample, no secret
        self.texts = texts
        self.kinds: tuple[tuple[str, int, Callable[[], bytes]], ...] = (
            ("hostile text in a field", 26, self.hostile_field),
            ("other value in a field", 12, self.other_value),
            ("hostile key", 8, self.hostile_key),
            ("another file that may be valid", 18, self.variant),
            ("shuffled tree", 10, self.shuffled),
            ("tokens", 14, self.tokens),
            ("bytes", 8, self.bytes),
            ("encoding", 2, self.encoded),
            ("bomb", 2, self.bomb),
        )

    def inputs(self, count: int) -> Iterator[Input]:
        """The next `count` inputs."""
        names = [name for name, _, _ in self.kinds]
        weights = [weight for _, weight, _ in self.kinds]
        makers = {name: make for name, _, make in self.kinds}
        for _ in range(count):
            name = self.chance.choices(names, weights)[0]
            yield Input(name, makers[name]())

    def hostile(self) -> str:
        """A text for a field: as it stands, behind or before something good, or a random one."""
        chance = self.chance
        word = chance.choice(HOSTILE)
        match chance.randrange(6):
            case 0:
                return chance.choice(("eth0", "80", "a", "/x", "1s", "10.0.0.0/8", "a.b", "tag:x")) + word
            case 1:
                return word + chance.choice(("eth0", "80", "a", "/x", "1s"))
            case 2:
                return word + chance.choice(HOSTILE)
            case 3:
                return "".join(
                    chr(chance.choice((chance.randrange(0x80), chance.randrange(0x3000)))) for _ in range(4)
                )
            case _:
                return word

    def base(self, variants: int = 0) -> dict[str, Tree]:
        """A tree that may well be valid: FULL with some of its values replaced or left out."""
        tree: dict[str, Tree] = copy.deepcopy(FULL)
        for path, value in self.chance.sample(VARIANTS, variants):
            try:
                at(tree, path[:-1])[path[-1]] = copy.deepcopy(value)
            except (KeyError, TypeError):
                continue  # another variant has taken it away
        for section in [name for name in tree if name != "host" and self.chance.random() < 0.25]:
            del tree[section]
        return tree

    def place(self, tree: Tree) -> Path:
        """A path of a leaf."""
        return self.chance.choice([path for path in leaves(tree) if path])

    def put(self, tree: Tree, path: Path, value: Tree) -> None:
        at(tree, path[:-1])[path[-1]] = value

    def hostile_field(self) -> bytes:
        tree = self.base(self.chance.choice((0, 0, 1, 2)))
        for _ in range(self.chance.choice((1, 1, 1, 2, 5))):
            path = self.place(tree)
            good = at(tree, path)
            word = self.hostile()
            if isinstance(good, str) and self.chance.random() < 0.6:
                near = self.near(good)
                word = self.chance.choice(
                    (good + word, word + good, good[:1] + word + good[1:], near, near, near)
                )
            self.put(tree, path, word)
        return self.write(tree)

    def near(self, good: str) -> str:
        """A good text with one character changed: what is wrong with it, if anything, is hardly seen."""
        index = self.chance.randrange(len(good) + 1)
        if index == len(good):
            return good + self.chance.choice(("\n", " ", "\0", ".", "-", "\u200b", "\u0660"))
        char = good[index]
        if char.isdigit() and self.chance.random() < 0.5:
            other = chr(self.chance.choice((0x660, 0x966, 0xFF10, 0x1D7CE)) + int(char))
        elif self.chance.random() < 0.7:
            other = self.chance.choice("abz019AZ._-:/@*%+~=[] ")
        else:
            other = self.chance.choice(HOSTILE)[:1]
        return good[:index] + other + good[index + self.chance.randrange(2) :]

    def other_value(self) -> bytes:
        tree = self.base(self.chance.choice((0, 1)))
        path = self.chance.choice([*leaves(tree), *containers(tree)])
        value = self.any_value(self.chance.randrange(1, 4))
        if not path:
            return self.write(value)
        self.put(tree, path, value)
        return self.write(tree)

    def any_value(self, depth: int) -> Tree:
        chance = self.chance
        kind = chance.randrange(9 if depth else 6)
        numbers = (0, 1, -1, 80, 65535, 65536, 2**31, 2**63, 2**64, 10**39, 10**400, -(10**50))
        floats = (0.0, 0.5, -0.0, 1e308, 5e-324, float("inf"), float("nan"), 443.0)
        if kind < 2:
            return self.hostile()
        if kind < 6:
            return chance.choice(
                (None, chance.choice((True, False)), chance.choice(numbers), chance.choice(floats))
            )
        if kind == 6:
            return [self.any_value(depth - 1) for _ in range(chance.randrange(4))]
        if kind == 7:
            return at(FULL, chance.choice(list(containers(FULL))))
        return {self.hostile(): self.any_value(depth - 1) for _ in range(chance.randrange(3))}

    def hostile_key(self) -> bytes:
        tree = self.base()
        path = self.chance.choice([path for path in containers(tree) if isinstance(at(tree, path), dict)])
        node = at(tree, path)
        if node and self.chance.random() < 0.6:
            old = self.chance.choice(list(node))
            new = self.chance.choice((self.hostile(), old + self.hostile()[:3], old.upper(), old[:-1]))
            items = [(new if key == old else key, value) for key, value in node.items()]
            node.clear()
            node.update(items)
        else:
            node[self.hostile()] = self.any_value(2)
        return self.write(tree)

    def variant(self) -> bytes:
        tree = self.base(self.chance.randrange(5))
        for _ in range(self.chance.randrange(3)):
            path = self.place(tree)
            alike = [other for other in leaves(FULL) if other[-1] == path[-1] or self.chance.random() < 0.02]
            if alike:
                self.put(tree, path, copy.deepcopy(at(FULL, self.chance.choice(alike))))
        for _ in range(self.chance.randrange(4)):
            path = self.place(tree)
            node = at(tree, path[:-1])
            if self.chance.random() < 0.5 and path[0] != "host":
                del node[path[-1]]
            elif isinstance(node, list):
                node.append(copy.deepcopy(node[0]))
        return self.write(tree)

    def shuffled(self) -> bytes:
        tree = self.base(2)
        for _ in range(self.chance.randrange(1, 4)):
            first, second = (
                self.chance.choice([path for path in containers(tree) if path]) for _ in range(2)
            )
            moved = copy.deepcopy(at(tree, first))
            self.put(tree, second, moved)
            if self.chance.random() < 0.3:
                wide = [copy.deepcopy(moved) for _ in range(self.chance.choice((2, 50)))]
                self.put(tree, self.chance.choice([path for path in containers(tree) if path]), wide)
        return self.write(tree)

    def tokens(self) -> bytes:
        tokens = _TOKEN.findall(self.text())
        for _ in range(self.chance.choice((1, 1, 2, 4))):
            index = self.chance.randrange(len(tokens))
            word = (
                self.chance.choice((*TOKENS, *HOSTILE))
                if self.chance.random() < 0.8
                else self.chance.choice(tokens)
            )
            match self.chance.randrange(4):
                case 0:
                    tokens[index] = word
                case 1:
                    tokens.insert(index, word)
                case 2:
                    tokens[index : index + self.chance.randrange(1, 9)] = []
                    tokens = tokens or [""]
                case _:
                    piece = tokens[index : index + self.chance.randrange(1, 40)]
                    there = self.chance.randrange(len(tokens))
                    tokens[there:there] = piece
        return "".join(tokens).encode("utf-8", "surrogatepass")

    def bytes(self) -> bytes:
        data = bytearray(self.text().encode("utf-8", "surrogatepass"))
        chance = self.chance
        if chance.random() < 0.03:
            return chance.randbytes(chance.randrange(400))
        for _ in range(chance.choice((1, 1, 2, 8))):
            index = chance.randrange(len(data) + 1)
            match chance.randrange(5):
                case 0 if data:
                    data[index % len(data)] ^= 1 << chance.randrange(8)
                case 1:
                    data[index:index] = chance.randbytes(chance.randrange(1, 5))
                case 2:
                    del data[index : index + chance.randrange(1, 60)]
                case 3:
                    del data[index:]
                case _:
                    other = chance.choice(self.texts)
                    data[index:] = other[chance.randrange(len(other)) :]
        return bytes(data)

    def encoded(self) -> bytes:
        text = self.text()
        match self.chance.randrange(4):
            case 0:
                return text.replace("\n", "\r\n").encode("utf-8", "surrogatepass")
            case 1:
                end = self.chance.choice(("\r", "\x85", "\u2028", "\n\r", "\x0b"))
                return text.replace("\n", end).encode("utf-8", "surrogatepass")
            case 2:
                return text.replace("  ", "\t").encode("utf-8", "surrogatepass")
            case _:
                return text.encode(self.chance.choice(_ENCODINGS), "replace")

    def bomb(self) -> bytes:
        """Deep, wide, repeated, endless."""
        chance = self.chance
        size = chance.choice((50, 50, 1000, 1000, 1000, 20_000))
        match chance.randrange(9):
            case 0:
                text = "host: " + chance.choice(("[", "{a: ", "- ", "? ", "!!seq [", "&x [")) * size
            case 1:
                text = "\n".join(f"{' ' * level}a:" for level in range(min(size, 1000)))
            case 2:
                lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
                lines += [
                    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]"
                    for n in range(1, chance.choice((3, 9, 40)))
                ]
                text = "\n".join(lines)
            case 3:
                text = "host: {name: a}\nx: &x {" + ", ".join(f"<<: *x, k{n}: 1" for n in range(50)) + "}\n"
            case 4:
                text = "host: {name: a}\nfirewall: {zones: {z: {tcp: [" + ", ".join(["80"] * size) + "]}}}"
            case 5:
                text = (
                    "host: {name: a}\nfirewall: {zones: {"
                    + ", ".join(f"z{n}: {{}}" for n in range(min(size, 1000)))
                    + "}}"
                )
            case 6:
                text = "host: {name: " + chance.choice(("a", "1", "'a''", '"\\u0041', "#")) * size + "}"
            case 7:
                text = "host: {name: a}\n" + "\n".join(f"k{n}: {n}" for n in range(min(size, 2000)))
            case _:
                text = (
                    "host: {name: a}\nproxy: {services: {s: {upstream: ["
                    + ", ".join(["80 backup"] * min(size, 2000))
                    + "]}}}"
                )
        return text.encode()

    def text(self) -> str:
        """A file to be damaged: one of `texts`, or a tree written out."""
        if self.chance.random() < 0.5:
            return self.chance.choice(self.texts).decode()
        return self.write(self.base(self.chance.randrange(3))).decode("utf-8", "surrogatepass")

    def write(self, tree: Tree) -> bytes:
        """A tree as JSON, or as YAML in a style of the moment; texts are seldom left unquoted on purpose."""
        if self.chance.random() < 0.3:
            text = json.dumps(
                tree, ensure_ascii=self.chance.random() < 0.5, indent=self.chance.choice((None, 1))
            )
        else:
            text = self.block(tree, 0) if isinstance(tree, dict) and tree else self.flow(tree)
        return text.encode("utf-8", "surrogatepass")

    def block(self, tree: dict[str, Any], depth: int) -> str:
        lines = []
        for key, value in tree.items():
            name = self.scalar(key) if isinstance(key, str) else str(key)
            if isinstance(value, dict) and value and depth < 3:
                lines.append(f"{'  ' * depth}{name}:\n{self.block(value, depth + 1)}")
            else:
                lines.append(f"{'  ' * depth}{name}: {self.flow(value)}\n")
        return "".join(lines)

    def flow(self, value: Tree) -> str:
        if isinstance(value, dict):
            return (
                "{"
                + ", ".join(f"{self.scalar(str(key))}: {self.flow(below)}" for key, below in value.items())
                + "}"
            )
        if isinstance(value, list):
            return "[" + ", ".join(map(self.flow, value)) + "]"
        if isinstance(value, str):
            return self.scalar(value)
        if isinstance(value, float) and not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf"
        return json.dumps(value)

    def scalar(self, text: str) -> str:
        if _PLAIN.fullmatch(text) and self.chance.random() < 0.9:
            return text
        match self.chance.randrange(8):
            case 0:
                return text
            case 1 | 2:
                return "'" + text.replace("'", "''") + "'"
            case _:
                return json.dumps(text, ensure_ascii=self.chance.random() < 0.5)
