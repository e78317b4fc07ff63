"""`quorumd chaos`: a cluster of real processes is broken at random, from one seed, while clients write their history.

    schedule   seed, seconds, faults -> rounds of overlapping faults, each healed before the next; pure
    faults     what each fault draws, how it is injected and healed; acts on a World
    cluster    the World: node processes, a config each, the relay between them, their disks
    links      what a faulty link does to a datagram; pure. relay: the process that does it
    preload    powerloss.c: a library that makes real files lose what was not synced, or the disk full
    platter    what of such files is left after a power cut
    bitflip    one bit of a log that was known durable
    calls      operations of the history format and of the client library, into each other; pure
    workload   concurrent clients that record every operation
    holders    clients that hold leases
    verdict    what must hold of the history and of the nodes
    run        all of it, in order; display shows it

A node has no switch for any of this: links fail in the relay, disks in the library, processes by signals.
"""
