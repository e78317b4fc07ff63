"""How many schedules each test of recipes tries: QUORUMD_SEEDS, as in the other random worlds."""

import os

SEEDS = int(os.environ.get("QUORUMD_SEEDS", "30"))


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(SEEDS))
