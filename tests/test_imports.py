"""The layout is the architecture: who may import whom, checked on the syntax tree. A new edge is a decision."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DAEMON = ROOT / "daemon" / "quorumd"
PURE = {"crc", "wire", "replays", "beats", "ring", "walframe", "apply", "watch"}

LEAF = {
    *("types", "errors", "invariants", "limits", "endpoint", "yamlsource", "configerrors", "config", "commands"),
    *("connectivity", "compaction", "expiry", "watchcodec"),
}
# Layer -> the layers it may import, besides itself. `fastpath` stands for the pure native modules.
LAYERS = {
    "leaf": set(),
    "environment": {"leaf"},
    "consensus": {"leaf"},
    "node parts": {"leaf", "consensus", "fastpath"},
    # Where the config's `engine` becomes an engine, with the log it writes.
    "engines": {"leaf", "consensus", "node parts", "fastpath"},
    "core": {"leaf", "consensus", "node parts", "engines", "fastpath"},
    "node": {"leaf", "environment", "consensus", "node parts", "engines", "core", "fastpath", "system calls"},
    "client": {"leaf", "node parts", "fastpath"},
    "recipes": {"leaf", "client"},
    "checker": {"leaf"},
    "supervisor": {"leaf", "environment", "client", "checker"},
    "sim": {"leaf", "consensus", "node parts", "core", "client", "checker", "fastpath"},
    # Part of the supervisor, and apart because it knows the disk format: it damages what is certainly on the disk.
    "chaos": {"leaf", "environment", "client", "checker", "supervisor", "fastpath"},
    # Part of the supervisor too; it drives load through the fastpath's generator, and links through chaos's relay.
    "compare": {"leaf", "environment", "client", "supervisor", "chaos", "fastpath", "system calls"},
    "cli": {
        *("leaf", "environment", "consensus", "node parts", "core", "node", "client", "checker", "supervisor"),
        *("recipes", "chaos", "compare", "sim", "fastpath", "system calls"),
    },
}
MODULES = {
    **dict.fromkeys(LEAF, "leaf"),
    **dict.fromkeys(("environment", "eventlog"), "environment"),
    "consensus": "consensus",
    **dict.fromkeys(
        (
            *("admission", "applier", "auth", "clientplane", "digests", "fragments", "join", "log"),
            *("appending", "entryruns", "logreplay", "paxoscodec", "peercodec", "ports", "slotlog", "slotstorage"),
            *("recovery", "slotadmission", "sources", "statemachine", "storage", "transport", "watchplane"),
        ),
        "node parts",
    ),
    "engines": "engines",
    **dict.fromkeys(("core", "settings", "ownentries", "answers"), "core"),
    **dict.fromkeys(("node", "disk", "names"), "node"),
    "client": "client",
    "recipes": "recipes",
    "checker": "checker",
    "supervisor": "supervisor",
    "sim": "sim",
    "chaos": "chaos",
    "compare": "compare",
    **dict.fromkeys(("cli", "__main__"), "cli"),
}
CONSENSUS_MAY_NOT = {"time", "random", "socket", "os", "asyncio", "threading", "logging", "select", "datetime"}
CORE_MAY_NOT = {"time", "random", "socket", "os", "asyncio", "threading", "select", "subprocess"}


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module in ("quorumd", "quorumd_fastpath"):
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", node.lineno
            else:
                yield node.module or "", node.lineno


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "quorumd_fastpath":
        return "fastpath" if len(parts) == 1 or parts[1] in PURE else "system calls"
    if parts[0] != "quorumd" or len(parts) == 1:
        return None
    if parts[1] == "__version__":
        return None
    return MODULES[parts[1]]


def sources():
    return sorted(DAEMON.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(DAEMON)))
def test_imports_point_downwards(path):
    own = path.relative_to(DAEMON).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    layer = MODULES[own]
    for module, line in imports(path):
        target = layer_of(module)
        assert target is None or target == layer or target in LAYERS[layer], (
            f"{path}:{line}: {layer} may not import {module} ({target})"
        )


@pytest.mark.parametrize("path", sorted((DAEMON / "consensus").rglob("*.py")), ids=lambda path: path.name)
def test_engines_read_no_clock_randomness_disk_or_socket(path):
    for module, line in imports(path):
        assert module.split(".")[0] not in CONSENSUS_MAY_NOT, f"{path}:{line}: an engine may not import {module}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(DAEMON)))
def test_node_parts_and_core_touch_the_world_only_through_ports(path):
    own = path.relative_to(DAEMON).parts[0].removesuffix(".py")
    if MODULES.get(own) not in ("node parts", "core"):
        return
    for module, line in imports(path):
        assert module.split(".")[0] not in CORE_MAY_NOT, f"{path}:{line}: {own} may not import {module}"


@pytest.mark.parametrize("path", sorted((DAEMON / "sim").rglob("*.py")), ids=lambda path: path.name)
def test_the_simulator_has_no_time_or_randomness_but_its_own(path):
    for module, line in imports(path):
        if path.name != "campaign.py":  # which counts real seconds, around whole runs
            assert module.split(".")[0] not in CORE_MAY_NOT - {"random"}, f"{path}:{line}: may not import {module}"


def test_raft_and_paxos_never_import_each_other():
    for path in (DAEMON / "consensus").rglob("*.py"):
        names = {module for module, _ in imports(path)}
        if "raft" in path.parts:
            assert not any("paxos" in name for name in names)
        if "paxos" in path.parts:
            assert not any(".raft" in name for name in names)


def test_the_fastpath_imports_nothing_of_ours():
    for path in (ROOT / "fastpath" / "quorumd_fastpath").glob("*.py"):
        assert not any(name.startswith("quorumd.") or name == "quorumd" for name, _ in imports(path)), path
    for path in (ROOT / "fastpath" / "quorumd_fastpath").glob("*.pyx"):
        assert "quorumd." not in path.read_text().replace("quorumd_fastpath.", ""), path


RECIPES_WITH_THE_WORLD = {
    "blocking.py", "awaiting.py", "session.py", "aiosession.py", "sync.py", "aio.py", "processes.py",
}


@pytest.mark.parametrize("path", sorted((DAEMON / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_the_logic_of_recipes_has_no_clock_and_no_client(path):
    """The same scripts run under both faces and in the tests' simulated world. (view.py has a lock, and no thread.)"""
    for module, line in imports(path):
        if path.name not in RECIPES_WITH_THE_WORLD:
            assert layer_of(module) != "client", f"{path}:{line}: may not import {module}"
            assert module.split(".")[0] not in CORE_MAY_NOT - {"threading"}, f"{path}:{line}: may not import {module}"
