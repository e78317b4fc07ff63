"""YAML as plain data that remembers its lines, so that every complaint can name file, line, key and remedy.

Knows nothing of what the keys mean; `config.py` does. A leaf: imports only `errors` and `limits`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from quorumd.errors import ConfigError
from quorumd.limits import MAX_CONFIG_BYTES, MAX_CONFIG_VALUES


class Kind(NamedTuple):
    """What a file is to be, for remedies. start: how one may begin."""

    name: str
    start: str


CONFIG: Final = Kind("a cluster config", "start with `cluster: NAME` and `nodes:`")


class Source(NamedTuple):
    """Where a config came from.

    lines: a key's path ("nodes[1].peer") to its line, counted from 1. words: the path of a value that is no text to
    its word in the file, as YAML makes true of yes, and 7 of 007.
    """

    name: str
    lines: Mapping[str, int]
    words: Mapping[str, str]

    def line(self, key: str) -> int:
        """The line of `key`, or of its nearest parent that the file has."""
        while key and key not in self.lines:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.lines.get(key, 1)

    def error(self, key: str, what: str, remedy: str, *, line_of: str | None = None) -> ConfigError:
        """The one-line ConfigError `file:line: key: what; remedy`; the line is that of `line_of` or of `key`."""
        place = f"{self.name}:{self.line(key if line_of is None else line_of)}"
        subject = f"{key}: " if key else ""
        return ConfigError(" ".join(f"{place}: {subject}{what}; {remedy}".split()))


def read(path: Path, kind: Kind = CONFIG) -> tuple[object, Source]:
    """The plain data in the YAML file `path`, and where each key stands. Raises ConfigError."""
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file; name {kind.name}, or none for the built-in one") from None
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}); name {kind.name} that can be read") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{name}:1: more than {MAX_CONFIG_BYTES} bytes; name {kind.name}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8 text; save the file as UTF-8") from None
    return parse(text, name, kind)


def parse(text: str, name: str, kind: Kind = CONFIG) -> tuple[object, Source]:
    """As `read`, for text that is already here."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: contains a control character; remove it") from None
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{name}:1: the file is empty; {kind.start}")
        walk = _Walk(loader, name)
        return walk.value(node, ""), Source(name, walk.lines, walk.words)
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, name) from None
    except RecursionError:
        raise ConfigError(f"{name}:1: nested too deeply; {kind.name} has four levels at most") from None
    finally:
        loader.dispose()


def _syntax(error: yaml.MarkedYAMLError, name: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    problem = " ".join((error.problem or "not valid YAML").split())
    return ConfigError(
        f"{name}:{line}: not valid YAML: {problem}; check indentation, colons and brackets "
        f'(an IPv6 address needs quotes: "[::1]:7101")'
    )


class _Walk:
    """Turns YAML's node tree into plain data and notes the line of every key."""

    def __init__(self, loader: yaml.SafeLoader, name: str) -> None:
        self.loader = loader
        self.name = name
        self.lines: dict[str, int] = {}
        self.words: dict[str, str] = {}
        self.open: set[int] = set()
        self.count = 0

    def value(self, node: yaml.Node, path: str) -> object:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.count += 1
        if self.count > MAX_CONFIG_VALUES:
            raise ConfigError(f"{self.name}:{line}: {path}: more than {MAX_CONFIG_VALUES} values; shorten the file")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if id(node) in self.open:
            raise ConfigError(f"{self.name}:{line}: {path}: the anchor contains itself; write the value out")
        self.open.add(id(node))
        result: object
        if isinstance(node, yaml.MappingNode):
            result = self.mapping(node, path)
        else:
            result = [self.value(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        self.open.discard(id(node))
        return result

    def scalar(self, node: yaml.ScalarNode, path: str) -> object:
        try:
            result: object = self.loader.construct_object(node)
        except ValueError:  # such as a date of 2024-13-45
            line = node.start_mark.line + 1
            raise ConfigError(f'{self.name}:{line}: {path}: not a value; quote it: "{node.value}"') from None
        if not isinstance(result, str):
            self.words[path] = node.value
        return result

    def mapping(self, node: yaml.MappingNode, path: str) -> dict[str, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            self.check_key(key, path, seen)
        self.loader.flatten_mapping(node)  # `<<: *anchor`: merged pairs come first, the mapping's own win
        result: dict[str, object] = {}
        for key, item in node.value:
            inner = f"{path}.{key.value}" if path else key.value
            self.lines[inner] = key.start_mark.line + 1
            result[key.value] = self.value(item, inner)
        return result

    def check_key(self, key: yaml.Node, path: str, seen: set[str]) -> None:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{self.name}:{line}: {path or 'top level'}: a key must be a word; check the braces")
        where = f"{path}.{key.value}" if path else key.value
        if key.value in seen:
            raise ConfigError(f"{self.name}:{line}: {where}: the key is given twice; remove one of them")
        seen.add(key.value)
