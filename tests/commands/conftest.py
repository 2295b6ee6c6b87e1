"""A whole Tidegate for the tests of commands: `tidegate up --detach` in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import local_settings
from tidegate.config import Settings
from tidegate.local.processes import environment

Command = Callable[..., "subprocess.CompletedProcess[str]"]
BIN = Path(sys.executable).parent


def command_environment(settings: Settings) -> dict[str, str]:
    """The environment for commands that shall use `settings`, with `tidegate` and a `nats` on the PATH."""
    variables = environment(settings)
    shim = [] if shutil.which("nats") else [str(Path(__file__).parents[1] / "bin")]
    variables["PATH"] = os.pathsep.join([str(BIN), *shim, os.environ["PATH"]])
    variables["COLUMNS"] = "200"
    return variables


@pytest.fixture(scope="module")
def up_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return local_settings(tmp_path_factory.mktemp("up") / ".tidegate")


@pytest.fixture(scope="module")
def tidegate(up_settings: Settings) -> Iterator[Command]:
    """Runs `tidegate ...` against a running Tidegate; returns the completed process."""
    variables = command_environment(up_settings)
    folder = up_settings.data_dir.parent

    def run(*words: str, stdin: str | bytes = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(BIN / "tidegate"), *words],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            env=variables,
            cwd=folder,
            capture_output=True,
            timeout=120,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    try:
        run("up", "--detach")
        yield run
    finally:
        subprocess.run([str(BIN / "tidegate"), "down", "--quiet"], env=variables, cwd=folder, timeout=60, check=False)
