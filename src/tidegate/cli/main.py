"""The command `tidegate`: its options for every command, its errors and exit codes.

Invariant: a command's module is imported only when that command runs, so that starting a process stays quick.

A command is a function, or a cyclopts App, in a module here, and one line in COMMANDS. One that wants the settings
declares the keyword-only `settings: Annotated[Settings, Parameter(parse=False)]`. What it returns is the exit code.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from tidegate.errors import ConfigError, TidegateError

__all__ = ["app", "main"]

COMMANDS = (
    ("up", "tidegate.cli.local:up", "Start the local servers and Tidegate's own processes, and stay with them."),
    ("down", "tidegate.cli.local:down", "End what `up` started."),
    ("status", "tidegate.cli.local:status", "Show the processes, and what they report."),
    ("doctor", "tidegate.cli.local:doctor", "Check each server: reachable, set up rightly, and what to do if not."),
    ("config", "tidegate.cli.local:config", "Print the settings in force."),
    ("serve", "tidegate.cli.local:serve", "Run one local server in the foreground."),
    ("query", "tidegate.cli.query:app", "Look events up in a read model: hot, warm, cold or lake."),
    (
        "subjects",
        "tidegate.cli.subjects:subjects",
        "The declared streams: compare with the server, apply, generate schemas.",
    ),
    ("rebuild", "tidegate.cli.rebuild:rebuild", "Build a read model anew beside the one that serves, and swap it in."),
    ("verify", "tidegate.cli.rebuild:verify", "Compare the read models with the log, and name what differs."),
    ("pipeline", "tidegate.cli.pipeline:pipeline", "Try pipelines, improve them, and say which version is in use."),
    ("keys", "tidegate.cli.keys:keys", "The key file of anonymisation: add a key, list them, turn a pseudonym back."),
    ("publish", "tidegate.cli.events:publish", "Publish the lines of a file or of standard input."),
    ("tail", "tidegate.cli.events:tail", "Show live events readably."),
    ("dead", "tidegate.cli.events:dead", "Inputs that could not become events: list, show, redrive."),
    ("trace", "tidegate.cli.events:trace", "Print the tree of a trace, from the publisher to every read model."),
    (
        "subscriptions",
        "tidegate.cli.subscriptions:subscriptions",
        "Who reads the events of the log: list, pause, resume, seek, delete.",
    ),
    ("privacy", "tidegate.cli.privacy:privacy", "Counts with differential privacy, and the budgets that they spend."),
    ("channels", "tidegate.cli.channels:channels", "How the gateway's calls to other services go."),
    ("apikeys", "tidegate.cli.apikeys:apikeys", "Keys for the edges: create, list, revoke; what was refused."),
    ("ask", "tidegate.cli.entities:ask", "Give a command to an entity, or look at its state."),
    ("demo", "tidegate.cli.demo:demo", "Send generated events through everything, and show that the counts add up."),
    ("bench", "tidegate.cli.bench:bench", "Measure a part, or all, on real servers, each with its limit beside it."),
    ("run", "tidegate.cli.local:run", "Run one of Tidegate's own processes in the foreground."),
)

app = App(
    name="tidegate",
    help="Security events from NATS through one log into four read models.",
    result_action="return_value",
)
for _name, _where, _help in COMMANDS:
    app.command(_where, name=_name, help=_help)
app.meta.suppress_keyboard_interrupt = False
app.meta.group_parameters = "Options for every command"


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="The TOML file to read instead of ./tidegate.toml.")] = None,
) -> int | None:
    if config is not None:
        os.environ["TIDEGATE_CONFIG"] = str(config.absolute())
    command, bound, injected = app.parse_args(tokens)
    given = {}
    if "settings" in injected:
        from tidegate.config import load

        given["settings"] = load()
    call: Callable[..., Any] = partial(command, *bound.args, **bound.kwargs, **given)
    if not inspect.iscoroutinefunction(command):
        code: int | None = call()
        return code
    import anyio

    code = anyio.run(call, backend_options={"use_uvloop": True})
    return code  # noqa: RET504


def _expected(error: BaseException) -> list[TidegateError]:
    """The errors meant for people in `error`, when it holds no others."""
    if isinstance(error, TidegateError):
        return [error]
    if isinstance(error, BaseExceptionGroup):
        found = [_expected(one) for one in error.exceptions]
        return [one for some in found for one in some] if all(found) else []
    return []


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 for a failure, 2 for a wrong setting (or call), 130 for Ctrl-C."""
    try:
        return app.meta(arguments, result_action="return_value") or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `tidegate ... | head`: nobody reads on. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (TidegateError, BaseExceptionGroup) as error:
        expected = _expected(error)
        if not expected:
            raise
        for one in expected:
            print(f"error: {one}", file=sys.stderr)
        return 2 if any(isinstance(one, ConfigError) for one in expected) else 1
