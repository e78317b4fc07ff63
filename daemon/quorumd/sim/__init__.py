"""The deterministic simulator: production nodes and clients on a simulated clock, network and disks, from one seed.

    scenario.py   what one seed draws: sizes, timing, the path, which faults may strike
    world.py      time: one heap of events, in one thread
    network.py disk.py machine.py clients.py   what the production code is bound to
    faults.py     what strikes, and when it is healed: pathfaults.py, nodefaults.py
    observer.py   looks at the nodes after every turn, for checker.invariants
    run.py        one run: safety phase, liveness phase, verdict
    campaign.py shrink.py coverage.py          many runs, smaller runs, what runs have reached

Nothing here is imported by the code that it drives.
"""
