"""Setting telemetry up for one process, and taking it down.

Invariant: a slow or absent collector or span store never blocks the work, and delays the end by two seconds at most.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import prometheus_client
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import NoOpTracer

from tidegate.errors import ConfigError
from tidegate.telemetry import logs, spans
from tidegate.traces import SpanStore

__all__ = ["Telemetry", "setup"]

_SHUTDOWN_SECONDS = 2.0
_QUEUE_SPANS = 8192
_STORE_DELAY_MILLIS = 500
"""`tidegate trace` finds a span this long after its end."""

_current: Telemetry | None = None


class Telemetry:
    """What `setup` has set up; `shutdown` (or leaving the `with` block) flushes the spans and undoes it."""

    def __init__(self, processors: list[BatchSpanProcessor], undo_logs: Callable[[], None]) -> None:
        self._processors = processors
        self._undo_logs = undo_logs
        self._open = True

    def flush(self) -> None:
        """Deliver the spans that have ended; waits as long as that takes."""
        for processor in self._processors:
            processor.force_flush()

    def shutdown(self) -> None:
        """1. Record no more spans. 2. Deliver those that have ended, for two seconds at most. 3. Restore logging."""
        global _current
        if not self._open:
            return
        self._open = False
        atexit.unregister(self.shutdown)
        spans.use(NoOpTracer())
        # The SDK's own shutdown waits up to 30 s for each exporter; these threads may outlive us, and do no harm.
        enders = [threading.Thread(target=processor.shutdown, daemon=True) for processor in self._processors]
        for ender in enders:
            ender.start()
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        for ender in enders:
            ender.join(max(0.0, deadline - time.monotonic()))
        self._undo_logs()
        if _current is self:
            _current = None

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.shutdown()


def setup(
    process: str,
    *,
    log_level: logs.Level = "info",
    log_format: logs.Format = "auto",
    spans_path: Path | None = None,
) -> Telemetry:
    """Set up logs, metrics and spans for this process, in place of what an earlier call has set up.

    Spans go to the SQLite file `spans_path`, and to an OTLP/HTTP collector when `OTEL_EXPORTER_OTLP_ENDPOINT` (or
    `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) is set; with neither, none are recorded. The other `OTEL_*` variables are
    honoured by the SDK. Raises ConfigError when one of them cannot be understood.
    """
    global _current
    if _current is not None:
        _current.shutdown()
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    undo_logs = logs.configure(process, log_level, log_format)
    try:
        provider = TracerProvider(resource=_resource(process), shutdown_on_exit=False)
        processors = _processors(spans_path)
    except ValueError as error:
        undo_logs()
        raise ConfigError("OTEL_*", str(error)) from error
    if processors:
        for processor in processors:
            provider.add_span_processor(processor)
        spans.use(provider.get_tracer("tidegate", version("tidegate")))
    _current = Telemetry(processors, undo_logs)
    atexit.register(_current.shutdown)
    return _current


def _processors(spans_path: Path | None) -> list[BatchSpanProcessor]:
    exporters: list[tuple[SpanExporter, int | None]] = []
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        # Imported only when needed: it brings an HTTP client and Protobuf.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporters.append((OTLPSpanExporter(), None))
    if spans_path is not None:
        exporters.append((SpanStore(spans_path), _STORE_DELAY_MILLIS))
    return [
        BatchSpanProcessor(exporter, max_queue_size=_QUEUE_SPANS, schedule_delay_millis=delay)
        for exporter, delay in exporters
    ]


def _resource(process: str) -> Resource:
    return Resource.create(
        {"service.name": process, "service.version": version("tidegate"), "process.pid": os.getpid()}
    )
