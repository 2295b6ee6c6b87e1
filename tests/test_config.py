"""Where settings come from, which wins, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.config import Settings, load
from tidegate.errors import ConfigError


def toml(folder: Path, text: str) -> Path:
    path = folder / "tidegate.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_file_and_environment_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(environ={}) == Settings()


def test_tidegate_toml_in_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml(tmp_path, "[hot]\nttl_seconds = 7\n")
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).hot.ttl_seconds == 7


def test_a_file_named_in_the_environment_is_read_and_must_exist(tmp_path: Path) -> None:
    path = toml(tmp_path, "[hot]\nttl_seconds = 7\n")
    assert load(environ={"TIDEGATE_CONFIG": str(path)}).hot.ttl_seconds == 7
    with pytest.raises(ConfigError, match="cannot be read"):
        load(environ={"TIDEGATE_CONFIG": str(tmp_path / "other.toml")})


def test_file_then_long_variable_then_short_name_later_wins(tmp_path: Path) -> None:
    path = toml(tmp_path, '[nats]\nurl = "nats://file:1"\n')
    long = {"TIDEGATE_NATS_URL": "nats://long:2"}
    short = {"NATS_URL": "nats://short:3"}
    assert load(path, {}).nats_url == "nats://file:1"
    assert load(path, long).nats_url == "nats://long:2"
    assert load(path, short | long).nats_url == "nats://short:3"


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    path = toml(tmp_path, '[nats]\nurl = "nats://file:1"\n')
    assert load(path, {"NATS_URL": ""}).nats_url == "nats://file:1"


def test_an_unknown_key_is_refused_with_file_line_and_nearest_name(tmp_path: Path) -> None:
    path = toml(tmp_path, '[redis]\nurl = "redis://x"\n\n[nats]\nurll = "nats://x"\n')
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.where == f"{path}:5"
    assert 'unknown key "urll"' in caught.value.problem
    assert 'did you mean "url"' in caught.value.problem


def test_an_unknown_table_is_refused_with_its_line(tmp_path: Path) -> None:
    path = toml(tmp_path, '[hot]\nttl_seconds = 7\n[reddis]\nurl = "redis://x"\n')
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.where == f"{path}:3"
    assert 'did you mean "redis"' in caught.value.problem


def test_an_unknown_tidegate_variable_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"TIDEGATE_HOT_TTL_SECOND": "7"})
    assert caught.value.where == "TIDEGATE_HOT_TTL_SECOND"
    assert 'did you mean "TIDEGATE_HOT_TTL_SECONDS"' in caught.value.problem


def test_a_variable_is_converted_and_a_wrong_value_names_it() -> None:
    settings = load(environ={"TIDEGATE_WARM_JOURNAL": "false", "TIDEGATE_COLD_OBJECT_SECONDS": "0.5"})
    assert settings.warm.journal is False
    assert settings.cold.object_seconds == 0.5
    for value in ("soon", "0"):
        with pytest.raises(ConfigError) as caught:
            load(environ={"TIDEGATE_HOT_TTL_SECONDS": value})
        assert caught.value.where == "TIDEGATE_HOT_TTL_SECONDS"
        assert repr(value) in caught.value.problem


def test_a_wrong_scheme_is_refused_with_its_place(tmp_path: Path) -> None:
    path = toml(tmp_path, '# note\n[redis]\nurl = "http://x"\n')
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.where == f"{path}:3"
    assert "redis://" in caught.value.problem
    with pytest.raises(ConfigError) as caught:
        load(environ={"MONGODB_URI": "localhost:27017"})
    assert caught.value.where == "MONGODB_URI"


def test_addresses_are_local_until_set() -> None:
    settings = load(environ={"TIDEGATE_LOCAL_NATS_PORT": "4300"})
    assert settings.nats_url == "nats://127.0.0.1:4300"
    assert settings.nats_monitor_url == "http://127.0.0.1:8222"
    elsewhere = load(environ={"NATS_URL": "nats://bus:4222"})
    assert elsewhere.nats_url == "nats://bus:4222"
    assert elsewhere.nats_monitor_url is None


def test_the_subjects_folder_has_a_variable() -> None:
    assert load(environ={"TIDEGATE_SUBJECTS_PATH": "elsewhere"}).subjects_path == "elsewhere"
