"""`tidegate up` and `down`, and honcho with the Procfile, with real servers: nothing is left over or lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from redis import Redis

from tests.conftest import local_settings
from tidegate.config import Auth, Kafka, Settings, load, without_keys
from tidegate.local.processes import LINES, OWN, alive, birth, environment, hide_password, read_run, table

ROOT = Path(__file__).parents[2]
STANDINS = str(Path(__file__).with_name("run_standins.py"))
SERVERS = ("nats", "redis", "mongo", "s3")
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return local_settings(tmp_path / "data")


@pytest.fixture
def start(here: Settings) -> Iterator[Start]:
    """Start a command with the settings `here`; it is killed at the end, and so is what it left behind."""
    started: list[subprocess.Popen[str]] = []

    def begin(*command: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            env=environment(here) | variables,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    run = read_run(here.data_dir)
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for child in run.children if run is not None else []:
        if alive(child):
            os.killpg(child.pid, signal.SIGKILL)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tidegate", *arguments]


def tidegate(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment(settings), capture_output=True, text=True, timeout=60)


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    """What it prints, up to the line that contains `wanted`."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if wanted in line:
            return read
    raise AssertionError(f"{wanted!r} was not printed:\n{read}")


def read_to_ready(process: subprocess.Popen[str]) -> str:
    """What it prints, up to the line `ready`."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if line == "ready\n":
            return read
    raise AssertionError(f"it ended before it was ready:\n{read}")


def pids_in(text: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"pid (\d+) .* ready in", text)]


def all_gone(pids: Sequence[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(birth(pid) is not None for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# -- the table -----------------------------------------------------------------------------------------------------


def test_the_procfile_is_the_process_table(here: Settings) -> None:
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{name}: {line}" for name, line in LINES.items()]
    assert [process.name for process in table(here)] == [name for name in LINES if name != "kafka"]
    processes = table(replace(here, kafka=Kafka(brokers="127.0.0.1:9092")))
    assert [process.name for process in processes] == list(LINES)
    lines = [line.removesuffix(" --without-keys") for line in LINES.values()]
    assert [["tidegate", *process.command[3:]] for process in processes] == [line.split() for line in lines]


def test_a_child_gets_exactly_the_settings_whatever_else_is_set(tmp_path: Path) -> None:
    settings = local_settings(tmp_path)
    stray = {"NATS_URL": "nats://stray:1", "TIDEGATE_HOT_TTL_SECONDS": "5", "PATH": "/bin"}
    given = environment(settings, stray)
    assert given["PATH"] == "/bin"
    assert load(environ=given) == settings
    changed = load(environ={"TIDEGATE_WARM_JOURNAL": "false", "REDIS_URL": "redis://x", "TIDEGATE_SUBJECTS_PATH": "s"})
    assert load(environ=environment(changed, stray)) == changed


def test_passwords_and_tokens_in_addresses_are_hidden() -> None:
    assert hide_password("redis://user:secret@host:1/0") == "redis://user:***@host:1/0"
    assert hide_password("nats://token@host:4222") == "nats://***@host:4222"
    assert hide_password("nats://host:4222") == "nats://host:4222"


# -- up and down with the real servers -----------------------------------------------------------------------------


def test_up_serves_until_a_server_is_killed_and_then_names_it(here: Settings, start: Start) -> None:
    up = start(*command("up", "--only", "servers"))
    printed = read_to_ready(up)
    pids = pids_in(printed)
    assert len(pids) == 4
    assert all(name in printed for name in SERVERS)

    shown = json.loads(tidegate(here, "status", "--json").stdout)
    ready = {one["name"]: one["ready"] for one in shown["processes"]}
    assert ready == {name: name in SERVERS for name in LINES if name != "kafka"}
    assert shown["up"]["pid"] == up.pid
    assert shown["unreachable"] == list(OWN)

    second = tidegate(here, "up", "--only", "servers")
    assert second.returncode == 1
    assert f"pid {up.pid}" in second.stderr
    assert "Traceback" not in second.stderr

    run = read_run(here.data_dir)
    assert run is not None
    redis = next(child for child in run.children if child.name == "redis")
    os.kill(redis.pid, signal.SIGKILL)
    rest, _ = up.communicate(timeout=20)
    assert up.returncode == 1
    assert "redis ended: killed by SIGKILL" in rest
    assert "last lines of" in rest
    assert all_gone(pids, 0)
    assert read_run(here.data_dir) is None


def test_data_outlives_down_and_ctrl_c_ends_all_with_status_0(here: Settings, start: Start) -> None:
    detached = tidegate(here, "up", "--only", "servers", "--detach")
    assert detached.returncode == 0, detached.stderr
    pids = pids_in(detached.stdout)
    with Redis.from_url(here.redis_url) as redis:
        redis.set("kept", "yes")
    down = tidegate(here, "down")
    assert down.returncode == 0
    assert "ended 4 processes" in down.stdout
    assert len(pids) == 4
    assert all_gone(pids, 0)
    nothing = tidegate(here, "down")
    assert nothing.returncode == 0
    assert "nothing is running" in nothing.stdout

    up = start(*command("up", "--only", "servers", "--no-logs"))
    printed = read_to_ready(up)
    with Redis.from_url(here.redis_url) as redis:
        assert redis.get("kept") == b"yes"
    assert (here.data_dir / "logs" / "nats.log.1").exists()
    up.send_signal(signal.SIGINT)
    rest, _ = up.communicate(timeout=20)
    assert up.returncode == 0, rest
    assert all_gone(pids_in(printed), 0)


def test_killing_the_supervisor_ends_the_children_and_the_next_up_works(here: Settings, start: Start) -> None:
    up = start(*command("up", "--only", "servers", "--no-logs"))
    pids = pids_in(read_to_ready(up))
    up.kill()
    up.wait()
    again = start(*command("up", "--only", "servers", "--no-logs"))
    fresh = pids_in(read_to_ready(again))
    assert len(fresh) == 4
    assert all_gone(pids, 0)
    again.kill()
    assert all_gone(fresh)
    assert tidegate(here, "down").returncode == 0


def test_sigterm_while_it_starts_ends_what_has_started(here: Settings, start: Start) -> None:
    up = start(*command("up", "--only", "servers", "--no-logs"))
    read_until(up, "ready in")
    run = read_run(here.data_dir)
    assert run is not None
    up.terminate()
    rest, _ = up.communicate(timeout=20)
    assert up.returncode == 0, rest
    assert len(run.children) == 4
    assert all_gone([child.pid for child in run.children], 0)


def test_a_taken_port_is_named_with_its_setting_before_anything_starts(here: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", here.local.mongo_port))
        taken.listen()
        up = tidegate(here, "up", "--only", "servers")
        detached = tidegate(here, "up", "--only", "servers", "--detach")
    for one in (up, detached):
        assert one.returncode == 1
        assert f"port {here.local.mongo_port}" in one.stderr
        assert "local.mongo_port" in one.stderr
        assert "TIDEGATE_LOCAL_MONGO_PORT" in one.stderr
        assert "Traceback" not in one.stderr
    assert not (here.data_dir / "nats").exists()


def test_a_port_used_twice_names_both_settings(tmp_path: Path) -> None:
    settings = local_settings(tmp_path)
    variables = {"TIDEGATE_LOCAL_REDIS_PORT": str(settings.local.nats_port)}
    changed = load(environ=environment(settings, {}) | variables)
    up = tidegate(changed, "up", "--only", "servers")
    assert up.returncode == 1
    assert "local.redis_port and local.nats_port are both" in up.stderr


def test_nothing_starts_before_it_is_said_who_may_come_in(tmp_path: Path) -> None:
    settings = replace(local_settings(tmp_path / "run"), auth=Auth())
    for words in (["up"], ["up", "--detach"], ["run", "gateway"]):
        refused = tidegate(settings, *words)
        assert refused.returncode == 2
        assert "auth.mode (TIDEGATE_AUTH_MODE): is not set" in refused.stderr
        assert "--without-keys" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (settings.data_dir / "nats").exists()


def test_without_keys_is_what_holds_where_nothing_else_is_set() -> None:
    assert without_keys(Settings()).auth == Auth(mode="off")
    with_keys = Settings(auth=Auth(mode="keys"))
    assert without_keys(with_keys) is with_keys


# -- Tidegate's own processes, with stand-ins ------------------------------------------------------------------------


def test_an_own_process_is_started_again_three_times_and_then_ends_everything(here: Settings, start: Start) -> None:
    up = start(sys.executable, STANDINS)
    pids = pids_in(read_to_ready(up))
    for _ in range(3):
        os.kill(pids[-1], signal.SIGKILL)
        printed = read_until(up, "ready in")
        assert "stand-in ended: killed by SIGKILL; starting it again" in printed
        pids += pids_in(printed)
    run = read_run(here.data_dir)
    assert run is not None
    assert run.children[0].restarts == 3
    os.kill(pids[-1], signal.SIGKILL)
    rest, _ = up.communicate(timeout=20)
    assert up.returncode == 1
    assert "stand-in ended: killed by SIGKILL\n" in rest
    assert len(set(pids)) == 4
    assert all_gone(pids, 0)


def test_an_own_process_that_ends_before_it_was_ready_ends_everything(start: Start) -> None:
    up = start(sys.executable, STANDINS, "exit", "3")
    printed, _ = up.communicate(timeout=20)
    assert up.returncode == 1
    assert "stand-in ended: exit status 3" in printed
    assert "cannot go on" in printed


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace_period(start: Start) -> None:
    up = start(sys.executable, STANDINS, "deaf")
    pids = pids_in(read_to_ready(up))
    began = time.monotonic()
    up.terminate()
    up.communicate(timeout=20)
    assert up.returncode == 0
    assert time.monotonic() - began < 3
    assert all_gone(pids, 0)


# -- honcho --------------------------------------------------------------------------------------------------------


def test_honcho_runs_the_procfile_and_leaves_nothing_behind(here: Settings, start: Start) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    elsewhere = {"NATS_URL": "nats://user:secret@127.0.0.1:1"}
    honcho = start("honcho", "start", *SERVERS, PATH=path, **elsewhere)
    printed = read_until(honcho, "is not run here")
    assert "user:***@127.0.0.1:1" in printed
    assert "secret" not in printed
    deadline = time.monotonic() + 20
    ready: dict[str, bool] = {}
    while time.monotonic() < deadline and not all(ready.get(name) for name in ("redis", "mongo", "s3")):
        shown = json.loads(tidegate(here, "status", "--json").stdout)
        ready = {one["name"]: one["ready"] for one in shown["processes"]}
    assert all(ready[name] for name in ("redis", "mongo", "s3"))
    honcho.terminate()
    rest, _ = honcho.communicate(timeout=20)
    pids = [int(pid) for pid in re.findall(r"started \(pid=(\d+)\)", printed + rest)]
    assert len(pids) == 4
    assert all_gone(pids, 0)


# -- the command line ----------------------------------------------------------------------------------------------


def test_a_wrong_setting_is_an_error_of_one_line_with_status_2(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[nats]\nurll = 'x'\n", encoding="utf-8")
    done = subprocess.run(command("--config", str(path), "config"), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}:2: unknown key")
    assert done.stderr.count("\n") == 1


def test_config_prints_what_holds_and_masks_secrets(here: Settings) -> None:
    done = tidegate(here, "config")
    assert f"nats_port = {here.local.nats_port}" in done.stdout
    assert here.s3.secret_key not in done.stdout


def test_help_and_serve_import_nothing_heavy() -> None:
    heavy = {"aioboto3", "motor", "nats", "pyarrow", "pyiceberg", "redis", "rich.table", "tidegate.local.doctor"}
    for code in ("import tidegate.cli.main", "import tidegate.cli.local"):
        listing = f"{code}; import sys; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout
        assert not heavy & set(loaded.split())
