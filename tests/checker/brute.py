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
        if any(precedes(other, op, changed) for other in rest):
            continue
        now = revision
        if changed and revision is not None:
            now = revision + 1
        if op.outcome == "ok":
            if answer != claimed(op) or (now is not None and op.revision != now):
                continue
        if place(rest, after, now):
            return True
    return False


def precedes(other, op, op_changed) -> bool:
    """Whether `other` must stand before `op`. A stale read only asks not to see what began after its answer."""
    if other.completed is None or other.completed > op.invoked:
        return False
    if op.stale:
        return False
    return op_changed if other.stale else True


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
    succeeded = True
    for key, target, relation, operand in op.value["compare"]:
        if target == "value":
            left = value(store, key)
            if operand is not None and left is None:
                succeeded = False
                continue
        else:
            left = store.get(key, [None, 0, 0, 0])[["version", "create_revision", "mod_revision"].index(target) + 1]
        if relation == "=":
            holds = left == operand
        elif relation == "!=":
            holds = left != operand
        elif relation == "<":
            holds = left < operand
        else:
            holds = left > operand
        succeeded = succeeded and holds
    results, changed = [], False
    for part in op.value["success"] if succeeded else op.value["failure"]:
        if part[0] == "read":
            results.append(value(store, part[1]))
        else:
            changed = assign(store, part[1], part[2], revision) or changed
            results.append(None)
    return (succeeded, results), changed


def value(store, key):
    return store[key][0] if key in store else None


def assign(store, key, new, revision) -> bool:
    if new is None:
        return store.pop(key, None) is not None
    if key not in store:
        store[key] = [new, 1, revision, revision]
    elif store[key][3] == revision and store[key][2] != revision:
        store[key] = [new, store[key][1] + 1, store[key][2], revision]
    else:
        store[key] = [new, store[key][1] + 1, store[key][2], revision]
    return True
