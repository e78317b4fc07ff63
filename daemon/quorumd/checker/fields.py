"""The shape of one event: every field of a history line, checked where it enters, so that nothing behind checks again.

`check_event` knows one line; what must hold between lines (one open operation a process, order of time) is
`history.Pairing`'s.
"""

from typing import Any, Final

TYPES: Final = ("invoke", "ok", "fail", "info")
FUNCTIONS: Final = ("read", "write", "cas", "range", "txn")
TARGETS: Final = ("value", "version", "create_revision", "mod_revision")
RELATIONS: Final = ("=", "!=", "<", ">")


class FieldError(Exception):
    """One field of one event is wrong: `field` (None: the whole line), what it holds, and what it should hold."""

    def __init__(self, field: str | None, what: str, remedy: str) -> None:
        super().__init__(f'field "{field}" {what}; {remedy}' if field else f"{what}; {remedy}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _require(condition: bool, field: str, value: object, remedy: str) -> None:
    if not condition:
        raise FieldError(field, f"is {_shown(value)}", remedy)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    """JSON can hold halves of surrogate pairs, which no file and no page can."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value))


def _is_value(value: object) -> bool:
    return value is None or _is_text(value)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def check_event(line: dict[str, Any]) -> None:
    """Raises FieldError if `line` is no event of the history format. Fields that it does not know are allowed."""
    for field in ("process", "type", "f", "time_ns"):
        if field not in line:
            raise FieldError(field, "is missing", "every event has process, type, f and time_ns")
    process, type_, f = line["process"], line["type"], line["f"]
    _require(_is_int(process) and process >= 0, "process", process, "give each client an integer; leave others out")
    _require(type_ in TYPES, "type", type_, f"one of {', '.join(TYPES)}")
    _require(f in FUNCTIONS, "f", f, f"one of {', '.join(FUNCTIONS)}")
    _require(_is_int(line["time_ns"]), "time_ns", line["time_ns"], "an integer, nanoseconds of a monotonic clock")
    stale = line.get("stale", False)
    _require(isinstance(stale, bool), "stale", stale, "true or false")
    _require(not stale or f in ("read", "range"), "stale", stale, "only a read or a range may be stale")
    if type_ == "invoke":
        _check_key(f, line.get("key"))
        _check_argument(f, line.get("value"))
    elif type_ == "ok":
        _check_answer(f, line)


def _check_key(f: str, key: object) -> None:
    if f == "range":
        good = isinstance(key, list) and len(key) == 2 and all(map(_is_text, key))
        _require(good, "key", key, "a range has [from, to), two strings")
    elif f != "txn":
        _require(_is_text(key), "key", key, "a string")


def _check_argument(f: str, value: object) -> None:
    if f in ("read", "range"):
        _require(value is None, "value", value, f"null in the invoke of a {f}")
    elif f == "write":
        _require(_is_value(value), "value", value, "a string, or null to delete")
    elif f == "cas":
        good = isinstance(value, list) and len(value) == 2 and all(map(_is_value, value))
        _require(good, "value", value, "[old, new], each a string or null")
    else:
        _check_txn(value)


def _check_txn(value: object) -> None:
    parts = ("compare", "success", "failure")
    good = isinstance(value, dict) and all(isinstance(value.get(part), list) for part in parts)
    _require(good, "value", value, '{"compare": [...], "success": [...], "failure": [...]}')
    if not isinstance(value, dict):
        return
    for compare in value["compare"]:
        good = isinstance(compare, list) and len(compare) == 4 and _is_text(compare[0])
        _require(good, "value.compare", compare, "[key, target, op, operand]")
        _, target, relation, operand = compare
        _require(target in TARGETS, "value.compare", target, f"a target is one of {', '.join(TARGETS)}")
        _require(relation in RELATIONS, "value.compare", relation, f"an op is one of {' '.join(RELATIONS)}")
        if target != "value":
            _require(_is_int(operand), "value.compare", operand, f"{target} is compared with an integer")
        elif relation in ("=", "!="):
            _require(_is_value(operand), "value.compare", operand, "a value is compared with a string or null")
        else:
            _require(_is_text(operand), "value.compare", operand, f"{relation} compares a value with a string")
    for part in ("success", "failure"):
        for op in value[part]:
            read = _is_pair(op) and op[0] == "read" and _is_text(op[1])
            write = isinstance(op, list) and len(op) == 3 and op[0] == "write" and _is_text(op[1]) and _is_value(op[2])
            _require(read or write, f"value.{part}", op, '["read", key] or ["write", key, value]')


def _check_answer(f: str, line: dict[str, Any]) -> None:
    value, revision = line.get("value"), line.get("revision")
    _require(revision is None or (_is_int(revision) and revision >= 0), "revision", revision, "an integer, or left out")
    if f == "read":
        _require("value" in line and _is_value(value), "value", value, "the value read, null if the key is absent")
    elif f == "range":
        good = isinstance(value, list) and all(_is_pair(kv) and all(map(_is_text, kv)) for kv in value)
        _require(good, "value", value, "a list of [key, value] in key order")
        keys = [kv[0] for kv in value] if isinstance(value, list) else []
        _require(keys == sorted(set(keys)), "value", value, "keys in ascending order, each once")
    elif f in ("cas", "txn"):
        _require(isinstance(line.get("succeeded"), bool), "succeeded", line.get("succeeded"), "true or false")
    if f == "txn":
        results = line.get("results")
        good = isinstance(results, list) and all(map(_is_value, results))
        _require(good, "results", results, "a list, one value or null for each op of the branch taken")
