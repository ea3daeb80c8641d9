"""What the server counts about itself, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 30, 60)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Meters:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("clapkit_requests", "Requests answered", ["route", "status"], registry=self._registry)
        self._seconds = Histogram(
            "clapkit_request_seconds",
            "Time from a request to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._under_way = Gauge(
            "clapkit_requests_under_way", "Requests without a whole answer yet", registry=self._registry
        )
        self._batches = Histogram(
            "clapkit_text_batch", "Texts of one call of the encoder", buckets=_TEXTS, registry=self._registry
        )
        self._rows = Gauge("clapkit_index_rows", "Rows of the index", registry=self._registry)
        self._not_renewed = Counter(
            "clapkit_renewals_failed", "Times that a newer version could not be taken on", registry=self._registry
        )

    def begun(self) -> None:
        """A request has come."""
        self._under_way.inc()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request has its answer. `route` is the pattern of a route, so that there are few of them."""
        self._under_way.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, texts: int) -> None:
        """The text encoder was called with so many texts."""
        self._batches.observe(texts)

    def not_renewed(self) -> None:
        """A newer version of the index was there, or was looked for, and could not be taken on."""
        self._not_renewed.inc()

    def page(self, rows: int) -> bytes:
        """All of it as text; `rows` is the number of rows of the index now."""
        self._rows.set(rows)
        return generate_latest(self._registry)
