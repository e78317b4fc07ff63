"""Turns msgspec's verdict on a config into the one line that an operator can act on.

Loaded only once a config is found wrong. msgspec says what and where ("Expected `int`, got `str` - at
`$.nodes[1].id`"); the struct's own bounds and examples supply the remedy.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import inspect

from quorumd.config import Settings
from quorumd.errors import ConfigError
from quorumd.types import ENGINES
from quorumd.yamlsource import Source

_KINDS = {
    "int": "a whole number", "float": "a number with a fraction", "str": "text", "bool": "true or false",
    "null": "nothing", "array": "a list", "object": "keys and values", "int | str": "a whole number or auto",
    "str | null": "text", "int | str | null": "a whole number or text", "object | null": "keys and values",
    "float | null": "a number",
}
_OTHER_WORDS = {"members": "nodes"}  # that a key is looked for under, and that are not like its own
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def explain(message: str, data: object, source: Source, root: type[msgspec.Struct] = Settings) -> ConfigError:
    """The ConfigError for msgspec's `message` about `data`, which was to become a `root`."""
    text, _, place = message.partition(" - at `$")
    path = place.rstrip("`").removeprefix(".")
    return _Explainer(path, data, source, root).explain(text)


class _Explainer:
    def __init__(self, path: str, data: object, source: Source, root: type[msgspec.Struct]) -> None:
        self.root = root
        self.path = path
        self.source = source
        dotted = f".{path}" if path[:1] not in ("", "[") else path
        self.steps = [name or int(index) for name, index in _STEP.findall(dotted)]
        self.data = data
        self.value = _look_up(data, self.steps)
        self.type, self.examples, self.doc = _type_at(root, self.steps)

    def explain(self, text: str) -> ConfigError:
        if match := re.fullmatch(r"Object contains unknown field `(.*)`", text):
            return self.unknown(match[1])
        if match := re.fullmatch(r"Object missing required field `(.*)`", text):
            return self.missing(match[1])
        if match := re.fullmatch(r"Expected `([^`]*)`, got `([^`]*)`", text):
            return self.wrong_type(match[1], match[2])
        return self.wrong_value(text)

    def unknown(self, name: str) -> ConfigError:
        known = _fields(self.type)
        elsewhere = [section for section, keys in _sections(self.root).items() if name in keys]
        close = [word for word in known if word == _OTHER_WORDS.get(name)] or difflib.get_close_matches(name, known, 1)
        if elsewhere:
            remedy = f"it belongs under {' or '.join(f'{section}:' for section in elsewhere)}"
        else:
            remedy = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return self.source.error(f"{self.path}.{name}" if self.path else name, "unknown key", remedy)

    def missing(self, name: str) -> ConfigError:
        _, examples, _ = _type_at(self.root, [*self.steps, name])
        key = f"{self.path}.{name}" if self.path else name
        example = self.other_quorum() or examples[0]
        return self.source.error(key, "is missing", f"add for example `{name}: {_yaml(example)}`")

    def other_quorum(self) -> int | None:
        """With one of quorums.phase1 and phase2, the least of the other that meets it."""
        match self.path, self.data, self.value:
            case "quorums", {"nodes": [*nodes]}, {"phase1": int(size)} | {"phase2": int(size)} if size <= len(nodes):
                return len(nodes) + 1 - size
        return None

    def wrong_type(self, expected: str, got: str) -> ConfigError:
        if got == "null":
            return self.source.error(self.path, "has no value", self.example())
        word = self.source.words.get(self.path, "")
        shown = f" {_shortened(word) or _yaml(self.value)}" if isinstance(self.value, str | int | float) else ""
        what = f"expected {_KINDS.get(expected, expected)}, got {_KINDS.get(got, got)}{shown}"
        if word and _takes(self.type, word):
            key = self.path.rpartition(".")[2]
            return self.source.error(self.path, what, f'put it in quotes: {key}: "{_shortened(word)}"')
        return self.source.error(self.path, what, self.choices() or self.example())

    def wrong_value(self, text: str) -> ConfigError:
        shown = _yaml(self.value)
        if self.path == "engine":
            what = f"this version has no engine {shown}"
            return self.source.error("engine", what, f"use one of: {', '.join(ENGINES)}")
        if choices := self.choices():
            return self.source.error(self.path, f"{shown} is not allowed", choices)
        bounds = _bounds(self.type)
        if bounds:
            fault = "is out of range" if isinstance(self.value, int) else "is not allowed"
            also = " or auto" if isinstance(self.type, inspect.UnionType) else ""
            return self.source.error(self.path, f"{shown} {fault}", f"give {bounds[0]} to {bounds[1]}{also}")
        if isinstance(self.value, Sequence) and not isinstance(self.value, str):
            least, most = _lengths(self.type)
            span = f"exactly {least}" if least == most else f"{least} to {most}"
            return self.source.error(self.path, f"the list has {len(self.value)} items", f"give {span}")
        if isinstance(self.type, inspect.StrType) and self.type.pattern:
            return self.source.error(self.path, f"{shown} is not allowed", "use " + self.description())
        return self.source.error(self.path, f"{shown} is not allowed ({text[0].lower()}{text[1:]})", self.example())

    def choices(self) -> str:
        """The remedy where only certain words are allowed; empty elsewhere."""
        if not isinstance(self.type, inspect.LiteralType):
            return ""
        return f"use one of: {', '.join(map(str, self.type.values))}"

    def description(self) -> str:
        """What the field's doc says after its colon: the rule that its pattern spells out."""
        rule = self.doc.partition(": ")[2]
        return rule[:1].lower() + rule[1:].rstrip(".")

    def example(self) -> str:
        if not self.examples:
            names = _fields(self.type)
            return f"put its keys below it: {', '.join(names)}" if names else "see `quorumd check-config --schema`"
        if isinstance(self.steps[-1], int) and isinstance(self.type, inspect.StructType):
            return f"write for example `- {_yaml(self.examples[0])}`"
        name = next((step for step in reversed(self.steps) if isinstance(step, str)), "")
        return f"write for example `{name}: {_yaml(self.examples[0])}`"


def _yaml(value: object) -> str:
    """`value` as it would stand in a config file, on one line and not too long."""
    match value:
        case str() if re.fullmatch(r"[\w./:-]+", value):
            text = value
        case Mapping():
            text = f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
        case list():
            text = f"[{', '.join(map(_yaml, value))}]"
        case _:
            text = json.dumps(value, default=str)
    return _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _look_up(data: object, steps: Sequence[str | int]) -> object:
    for step in steps:
        match data, step:
            case Mapping(), _:
                data = data[step]
            case list(), int():
                data = data[step]
    return data


def _type_at(root: type[msgspec.Struct], steps: Sequence[str | int]) -> tuple[inspect.Type, list[object], str]:
    """The declared type at a path, with examples and doc of the nearest field that has some."""
    here: inspect.Type = inspect.type_info(root)
    examples: list[object] = []
    doc = ""
    for step in steps:
        if isinstance(here, inspect.StructType):
            here = next((field.type for field in here.fields if field.name == step), here)
        elif isinstance(here, inspect.VarTupleType):
            here = here.item_type
            if isinstance(here, inspect.StructType):
                examples = [item for items in examples if isinstance(items, list) for item in items]
        elif isinstance(here, inspect.TupleType) and isinstance(step, int):
            here = here.item_types[step]
        if isinstance(here, inspect.Metadata):
            extra = here.extra_json_schema or {}
            examples, doc = extra.get("examples", examples), extra.get("description", doc)
            here = here.type
        if isinstance(here, inspect.UnionType):  # a section, or null
            here = next((kind for kind in here.types if isinstance(kind, inspect.StructType)), here)
    return here, examples, doc


def _fields(here: inspect.Type) -> list[str]:
    return [field.name for field in here.fields] if isinstance(here, inspect.StructType) else []


def _sections(root: type[msgspec.Struct]) -> dict[str, list[str]]:
    """The keys of each section at the top."""
    kinds = {name: _type_at(root, [name])[0] for name in _fields(inspect.type_info(root))}
    return {name: _fields(kind) for name, kind in kinds.items() if _fields(kind)}


def _takes(here: inspect.Type, word: str) -> bool:
    """Whether `word` would do as text: of a pattern, or of a path; an address needs more than quotes."""
    if isinstance(here, inspect.StrType):
        return here.pattern is not None and re.search(here.pattern, word) is not None
    kinds = here.types if isinstance(here, inspect.UnionType) else ()
    return any(isinstance(kind, inspect.StrType) for kind in kinds) and len(kinds) == 2


def _bounds(here: inspect.Type) -> tuple[int, int] | None:
    for kind in here.types if isinstance(here, inspect.UnionType) else (here,):
        if isinstance(kind, inspect.IntType) and kind.ge is not None and kind.le is not None:
            return kind.ge, kind.le
    return None


def _lengths(here: inspect.Type) -> tuple[int, int]:
    if isinstance(here, inspect.TupleType):
        return len(here.item_types), len(here.item_types)
    if isinstance(here, inspect.VarTupleType):
        return here.min_length or 0, here.max_length or 0
    return 0, 0
