"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "fastmux_requests", "Requests to the model, by status (499: the client left)", ["status"], registry=registry
        )
        self.rejected = Counter(
            "fastmux_rejected", "Requests refused before a row was read, by reason", ["reason"], registry=registry
        )
        self.rows = Counter(
            "fastmux_rows", "Rows: answered, malformed, failed in the model, dropped", ["outcome"], registry=registry
        )
        self.cut_rows = Counter(
            "fastmux_cut_rows", "Rows that were cut to the tokens that the model has room for", registry=registry
        )
        self.fallback_rows = Counter(
            "fastmux_fallback_rows", "Answered rows that went through the fallback model", registry=registry
        )
        self.request_seconds = Histogram(
            "fastmux_request_seconds", "Seconds of answered requests", buckets=_SECONDS, registry=registry
        )
        self.pass_seconds = Histogram(
            "fastmux_pass_seconds", "Seconds of a pass of the model", buckets=_SECONDS, registry=registry
        )
        self.group_fill = Histogram(
            "fastmux_group_fill",
            "Share of a group's room that rows took",
            buckets=[tenth / 10 for tenth in range(1, 11)],
            registry=registry,
        )
        self.queued_rows = Gauge("fastmux_queued_rows", "Rows that wait for the model", registry=registry)
        self.requests_in_flight = Gauge("fastmux_requests_in_flight", "Requests taken, not answered", registry=registry)
        ProcessCollector(registry=registry)

    def rows_so_far(self) -> tuple[float, float]:
        """How many rows were answered, and how many of them by the fallback."""
        answered = self.registry.get_sample_value("fastmux_rows_total", {"outcome": "answered"})
        return answered or 0.0, self.registry.get_sample_value("fastmux_fallback_rows_total") or 0.0
