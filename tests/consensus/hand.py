"""What the harnesses of both engines have in common: inputs one by one, time, and what the engine hands out."""

from quorumd.consensus.engine import Durable, Stalled, Tick


class Hand:
    """One engine under the tests' hand. `readys`: all that it handed out."""

    def __init__(self, engine, now=0):
        self.engine = engine
        self.now = now
        self.readys = []

    def step(self, *messages):
        for message in messages:
            self.engine.step(message)
        return self

    def ready(self):
        ready = self.engine.ready()
        if ready is not None:
            self.readys.append(ready)
        return ready

    def durable(self):
        self.engine.step(Durable(self.readys[-1].seq))
        return self

    def wait(self, span):
        self.now += span
        return self.step(Tick(self.now))

    def wake_late(self, at):
        """Its process runs again at that time, later than it should have."""
        self.now = at
        return self.step(Stalled(at), Tick(at))
