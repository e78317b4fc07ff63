"""Linearizability as its definition reads: try every order. No code and no idea shared with the checkers.

For histories of a handful of operations. `explains(operations, revisions=...)` takes the objects of `history.pair` for
their fields only; what operations do is written down here once more, on plain dicts of lists.
"""


def explains(operations, revisions: bool) -> bool:
    """Whether some order explains the answers; with `revisions`, those too, from any revision of the empty store."""
    counted = [op for op in operations if op.outcome != "fail"]
    if not revisions:
        return place(counted, {}, None)
    highest = max((op.revision for op in counted if op.outcome == "ok"), default=0)
    return any(place(counted, {}, start) for start in range(highest + 1))


def place(left, store, revision) -> bool:
    """Whether `left` can be put in an order, one after the other, from here."""
    if all(op.outcome == "info" for op in left):
        return True
    for op in left:
        rest = [other for other in left if other is not op]
        after = {key: list(item) for key, item in store.items()}
        answer, changed = perform(op, after, (revision or 0) + 1)
        if any(precedes(other, op) for other in rest):
            continue
        now = revision
        if changed and revision is not None:
            now = revision + 1
        if op.outcome == "ok" and (answer != claimed(op) or now not in (None, op.revision)):
            continue
        if place(rest, after, now):
            return True
    return False


def precedes(other, op) -> bool:
    """Whether `other` must stand before `op`. A stale read may be old: nothing need stand before it."""
    return not op.stale and other.completed is not None and other.completed < op.invoked


def claimed(op):
    if op.f in ("read", "range"):
        return op.result
    if op.f == "cas":
        return op.succeeded
    return (op.succeeded, list(op.results)) if op.f == "txn" else None


def perform(op, store, revision):
    """(answer, changed); an item is [value, version, create revision, mod revision]."""
    if op.f == "read":
        return value(store, op.key), False
    if op.f == "write":
        return None, assign(store, op.key, op.value, revision)
    if op.f == "cas":
        if value(store, op.key) != op.value[0]:
            return False, False
        return True, assign(store, op.key, op.value[1], revision)
    if op.f == "range":
        return [[key, store[key][0]] for key in sorted(store) if op.key[0] <= key < op.key[1]], False
    succeeded = all(holds(store, *compare) for compare in op.value["compare"])
    results, changed = [], False
    for part in op.value["success"] if succeeded else op.value["failure"]:
        if part[0] == "read":
            results.append(value(store, part[1]))
        else:
            changed = assign(store, part[1], part[2], revision) or changed
            results.append(None)
    return (succeeded, results), changed


def holds(store, key, target, relation, operand) -> bool:
    if target == "value":
        left = value(store, key)
        if operand is not None and left is None:
            return False
    else:
        place = ["value", "version", "create_revision", "mod_revision"].index(target)
        left = store.get(key, [None, 0, 0, 0])[place]
    if relation == "=":
        return left == operand
    if relation == "!=":
        return left != operand
    return left < operand if relation == "<" else left > operand


def value(store, key):
    return store[key][0] if key in store else None


def assign(store, key, new, revision) -> bool:
    if new is None:
        return store.pop(key, None) is not None
    if key not in store:
        store[key] = [new, 1, revision, revision]
    else:
        store[key] = [new, store[key][1] + 1, store[key][2], revision]
    return True
