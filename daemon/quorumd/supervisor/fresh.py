"""`up --fresh`: empties the directories of the nodes, and touches nothing that is not quorumd's."""

from pathlib import Path

from quorumd.config import Config
from quorumd.environment import Contents, inspect_directory


def wipe(config: Config) -> list[Path]:
    """Removes every node directory of the config; returns those that were there. Nobody may be using them.

    All are looked at before the first is touched. Raises ConfigError if one holds something that quorumd did not
    make (nothing is removed then), OSError.
    """
    doomed = [path for member in config.members if (path := config.node_path(member)).exists()]
    for path in doomed:
        found = inspect_directory(path)
        if found.contents is Contents.FOREIGN or found.foreign:
            raise config.source.error(
                "data_dir", f"--fresh leaves {path} alone (it holds {found.foreign}, which is not quorumd's)",
                "move that away or name another data_dir",
            )
    for path in doomed:
        for entry in path.iterdir():
            entry.unlink()  # never a tree: a directory in here is foreign, and raises
        if not path.is_symlink():
            path.rmdir()
    return doomed
