"""How many schedules each test of recipes tries (QUORUMD_SEEDS, as in the other random worlds), and a real cluster."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SEEDS = int(os.environ.get("QUORUMD_SEEDS", "30"))
ROOT = Path(__file__).parent.parent.parent
QUORUMD = str(Path(sys.executable).parent / "quorumd")


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(SEEDS))


@dataclass(frozen=True)
class RealCluster:
    """The built-in cluster, moved to an address of our own."""

    host: str
    environment: dict

    @property
    def endpoints(self):
        return [f"{self.host}:{port}" for port in (7201, 7202, 7203)]

    def run(self, *arguments, timeout=60):
        return subprocess.run(
            [QUORUMD, *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def start(self, *arguments, **options):
        return subprocess.Popen([QUORUMD, *arguments], env=self.environment, text=True, **options)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("recipes")
    pid = os.getpid()
    host = f"127.{150 + pid // 65536 % 50}.{pid // 256 % 256}.{pid % 254 + 1}"
    config = directory / "local-3.yaml"
    config.write_text((ROOT / "daemon/quorumd/default.yaml").read_text().replace("127.0.0.1", host))
    environment = {**os.environ, "QUORUMD_CONFIG": str(config), "XDG_STATE_HOME": str(directory)}
    found = RealCluster(host, environment)
    started = found.run("up", "--detach")
    assert started.returncode == 0, started.stderr
    yield found
    found.run("down")
