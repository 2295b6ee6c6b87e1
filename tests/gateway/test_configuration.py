"""The gateway's file: errors with their place, and what callbacks and subjects it allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.errors import ConfigError
from tidegate.gateway import load
from tidegate.gateway.configuration import Callbacks, Secret, safe_subject

REST = '[[targets]]\nname = "it"\nprotocol = "rest"\nurl = "http://127.0.0.1:1"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (REST + "timout_seconds = 1\n", r':5: unknown key "timout_seconds"; did you mean "timeout_seconds"'),
        (REST + "[targets.retry]\nattemps = 1\n", r':6: unknown key "attemps"; did you mean "attempts"'),
        ('[[targets]]\nname = "it"\nprotocol = "rest"\nurl = "ftp://x"\n', ":4: must start with http"),
        ('[[targets]]\nname = "it"\nprotocol = "rest"\nurl = "http://u:p@x"\n', ":4: must hold no password"),
        ('[[targets]]\nname = "it"\nprotocol = "nats"\nsubject = "cmd.alert.0"\n', ":4: .*no subject for a target"),
        ('[[targets]]\nname = "it"\nprotocol = "soap"\n', ":3: .*protocol"),
        (
            REST + '[targets.secrets]\nAuthorization = {env = "NOT_SET_AT_ALL"}\n',
            ":6: .*NOT_SET_AT_ALL is not set",
        ),
        ('[callbacks]\nwebhooks = ["http://a.example"]\n', ":2: .*at least the last /"),
        ('[[routes]]\ntypes = "*"\nto = ["kafka"]\n', ":3: .*needs a `topic`"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(path)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://a.example/hooks/1", True),
        ("https://a.example/hooks/", True),
        ("https://a.example/other", False),
        ("https://a.example/hooks/../other", False),
        ("https://a.example/hooks/%2e%2E/other", False),
        ("https://a.example/hooks/..%2fother", False),
        ("https://a.example/hooks/\\..\\x", False),
        ("https://a.example@evil.example/hooks/", False),
        ("https://a.example.evil.example/hooks/", False),
        ("http://169.254.169.254/latest", False),
        ("https://a.example/hooks/ x", False),
        ("", False),
    ],
)
def test_webhooks_must_be_allowed(url: str, allowed: bool) -> None:
    assert Callbacks(webhooks=("https://a.example/hooks/",)).allow(url) is allowed


def test_secrets_are_read_and_never_told(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("quiet\n")
    assert Secret(file=str(path)).read("here") == "quiet"
    path.write_text("qui\net")
    with pytest.raises(ConfigError) as caught:
        Secret(file=str(path)).read("here")
    assert "qui\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="either `env` or `file`"):
        Secret().read("here")


def test_callbacks_reach_no_subject_of_nats_or_tidegate() -> None:
    callbacks = Callbacks(subjects=("results", "log", "kafka", "$JS"))
    asked = ("results.a", "resultsx", "results.*", "log.event.0", "kafka.out.audit", "$JS.API")
    assert [callbacks.allow_subject(one) for one in asked] == [True, False, False, False, False, False]
    assert not safe_subject("ingest.x.0")


def test_the_file_that_the_documentation_shows_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEO_TOKEN", "quiet")
    page = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text(encoding="utf-8")
    path = tmp_path / "gateway.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0])
    found = load(path)
    assert found.targets[0].hedge is not None
    assert [one.types for one in found.routes] == ["realtime.*", "audit.*", "*"]
