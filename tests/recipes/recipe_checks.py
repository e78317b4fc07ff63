"""Judges a finished world by the store's history: who could own what, from which revision to which."""

from dataclasses import dataclass

FOREVER = 1 << 62


@dataclass
class Owned:
    """What a script believed: it returned `token` when the store was at revision `granted`."""

    token: int
    key: bytes
    granted: int
    exclusive: bool = True


def life_of(model, key):
    """(creation revision, revision of its deletion) of a key that is put once."""
    created, deleted = 0, FOREVER
    for revision, events in model.history:
        for event in events:
            if event.kv.key == key:
                if event.deleted:
                    deleted = revision
                elif not created:
                    created = revision
    return created, deleted


def lives(model, prefix):
    """{key: (created, deleted)} of all keys under the prefix."""
    found = {}
    for revision, events in model.history:
        for event in events:
            key = event.kv.key
            if not key.startswith(prefix):
                continue
            if event.deleted:
                found[key] = (found[key][0], revision)
            elif key not in found:
                found[key] = (revision, FOREVER)
    return found


def check_owners(model, owners, ahead_of, permits=1):
    """owners: [Owned]. ahead_of(key): the prefix of those whom the owner of this key had to wait for.

    Each owner was entitled at some revision at which its key existed; at no revision too many owned together; tokens
    rise in the order in which ownership was granted.
    """
    everybody = lives(model, b"quorumd/")
    spans = []
    for owned in owners:
        created, deleted = everybody[owned.key]
        assert created == owned.token, "the token is the creation revision of the owner's key"
        if permits == 1:
            prefix = ahead_of(owned.key)
            earlier = [span for key, span in everybody.items() if key.startswith(prefix) and span[0] < created]
            entitled = max([created, *(end for _, end in earlier)])
            assert entitled <= owned.granted, "somebody was still ahead when it believed that it owned"
            assert entitled < deleted, "its key was gone before its turn came, and yet it believed that it owned"
        if owned.granted < deleted:
            spans.append((owned.granted, deleted, owned))
    for begin, _, _ in spans:
        together = [other for b, e, other in spans if b <= begin < e]
        if permits > 1:
            assert len(together) <= permits, together
        elif any(other.exclusive for other in together):
            assert len(together) == 1, together
    return spans


def check_order(owners):
    """owners in the order in which they believed: exclusive tokens only rise."""
    tokens = [owned.token for owned in owners if owned.exclusive]
    assert tokens == sorted(set(tokens)), tokens


def check_clean(model, *spared):
    """Nothing is left but what is named."""
    left = [key for key in model.kvs if not key.startswith(spared or (b"\0none",))]
    assert not left, left
    assert not model.leases, model.leases
