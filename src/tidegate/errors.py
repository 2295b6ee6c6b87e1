"""Every error that Tidegate raises on purpose, in one tree.

Invariant: code decides on the class and the fields of an error, never on its message text.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "BalanceError",
    "BusError",
    "BusUnavailableError",
    "Code",
    "CodecError",
    "CommandRefusedError",
    "ConfigError",
    "ExpressionError",
    "FencedError",
    "FrameError",
    "LocalServerError",
    "PositionError",
    "PositionTimeoutError",
    "PublishError",
    "QueryError",
    "RebuildError",
    "RecordError",
    "RefusedError",
    "RuleError",
    "StageError",
    "TableError",
    "TidegateError",
    "TierUnavailableError",
]


class TidegateError(Exception):
    """Base of all errors below; its text is meant for people: what, where, and what to do."""


class BalanceError(TidegateError):
    """What came out is not what went in; the text says what was counted where."""


class ConfigError(TidegateError):
    """A setting, a subject declaration or a rule file is wrong.

    `where` is a file with line (`tidegate.toml:12`) or the name of an environment variable.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class RuleError(ConfigError):
    """A mapping rule cannot be compiled."""


class ExpressionError(TidegateError):
    """An expression cannot be compiled; `column` is the character, from 1, where the problem is."""

    def __init__(self, problem: str, column: int) -> None:
        super().__init__(f"column {column}: {problem}")
        self.problem = problem
        self.column = column


class TableError(ConfigError):
    """A table for enrichment cannot be loaded; what was loaded before stays in use."""


class FrameError(TidegateError):
    """A frame cannot be opened as a whole: unknown type or encoding, damaged, or over a limit."""

    def __init__(self, rule: str, problem: str) -> None:
        super().__init__(problem)
        self.rule = rule
        self.problem = problem


class CodecError(TidegateError):
    """Bytes are not what their format says, or a value has no place in it; `codec` is avro, protobuf or parquet."""

    def __init__(self, codec: str, problem: str) -> None:
        super().__init__(f"{codec}: {problem}")
        self.codec = codec
        self.problem = problem


class BusError(TidegateError):
    """NATS or JetStream answered a request with an error; `code` is the JetStream `err_code` (0 when there is none)."""

    def __init__(self, what: str, code: int, description: str) -> None:
        super().__init__(f"{what}: {description} (JetStream error {code})" if code else f"{what}: {description}")
        self.what = what
        self.code = code
        self.description = description


class BusUnavailableError(TidegateError):
    """NATS cannot be reached, or did not answer in time."""


class RecordError(TidegateError):
    """One record cannot become an event; `stage` and `rule` say where it failed, as in its dead letter."""

    def __init__(self, stage: str, rule: str, problem: str) -> None:
        super().__init__(problem)
        self.stage = stage
        self.rule = rule
        self.problem = problem


class StageError(TidegateError):
    """A stage has failed whose policy is `fail`: nothing goes on until its cause is mended."""

    def __init__(self, stage: str, problem: str) -> None:
        super().__init__(f"stage {stage}: {problem}; its policy is to stop here")
        self.stage = stage
        self.problem = problem


class FencedError(TidegateError):
    """Another writer has moved this cell's position since it was read; this writer must stop and start afresh."""

    def __init__(self, cell: str, problem: str) -> None:
        super().__init__(f"{cell}: {problem}")
        self.cell = cell


class PositionError(TidegateError):
    """A stored position does not belong to the stream that is there now (recreated, restored, or trimmed past it)."""


class RebuildError(TidegateError):
    """A rebuilt generation was not swapped in, or there is none to go back to; the one that served still serves."""


class PublishError(TidegateError):
    """Events were not acknowledged, or cannot be published at all; the text says which and what to do."""


class TierUnavailableError(TidegateError):
    """The server behind a read model cannot be reached or refuses to work."""

    def __init__(self, tier: str, problem: str) -> None:
        super().__init__(f"{tier}: {problem}")
        self.tier = tier
        self.problem = problem


class CommandRefusedError(TidegateError):
    """An entity has refused a command; `code` is a short word that programs can decide on."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem


class Code(Enum):
    """Why an edge refuses a call; each edge says it in its own protocol's terms."""

    INVALID = "invalid"
    """The call makes no sense, or none of its records does."""
    UNSUPPORTED = "unsupported"
    """A content type or encoding that is not taken."""
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    """Nothing came for too long."""
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    """It is not there, or belongs to somebody else: which of them is not told."""
    CONFLICT = "conflict"
    """The state of an entity does not allow it."""
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    """A server is away; the same call may be made again."""
    TIMEOUT = "timeout"
    """A position to wait for was not reached in time."""


class RefusedError(TidegateError):
    """A call over an edge is refused. `after`: seconds until it is worth another try; 0: unknown."""

    def __init__(
        self, code: Code, problem: str, *, after: float = 0.0, details: dict[str, object] | None = None
    ) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem
        self.after = after
        self.details = details or {}
        """Further members of the answer, such as what was stored before."""


class QueryError(TidegateError):
    """A query was not understood or not allowed."""


class PositionTimeoutError(QueryError):
    """A query was to wait for a position that was not reached in time; the text says what is still missing."""


class LocalServerError(TidegateError):
    """A local server cannot be started: a taken port, a missing binary, an early exit."""
