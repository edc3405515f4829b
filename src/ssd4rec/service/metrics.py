"""Prometheus metrics. With several workers each process writes to PROMETHEUS_MULTIPROC_DIR and any of them adds all up."""

import os

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"

REQUEST_SECONDS = Histogram(
    "ssd4rec_http_request_duration_seconds", "Seconds of a request", ["method", "route", "status"], buckets=SECONDS
)
STAGE_SECONDS = Histogram("ssd4rec_stage_seconds", "Seconds of a stage of a recommendation", ["stage"], buckets=SECONDS)
STATE_SECONDS, FILTER_SECONDS, SCORE_SECONDS = (STAGE_SECONDS.labels(stage) for stage in ("state", "filter", "score"))
EVENTS = Counter("ssd4rec_events_total", "Events by outcome", ["outcome"])
EVENTS_ACCEPTED, EVENTS_DUPLICATE, EVENTS_REJECTED = (EVENTS.labels(outcome) for outcome in ("accepted", "duplicate", "rejected"))
COMMIT_SECONDS = Histogram("ssd4rec_event_commit_seconds", "Seconds of a commit", buckets=SECONDS)
STATE_READS = Counter("ssd4rec_state_reads_total", "User states: hit, snapshot, step (new events only) or reread", ["kind"])
HITS, SNAPSHOTS_READ, STEPS, REREADS = (STATE_READS.labels(kind) for kind in ("hit", "snapshot", "step", "reread"))
RECOMMENDATIONS = Counter("ssd4rec_recommendations_total", "Answers by variant and source", ["variant", "source"])
QUEUE_DEPTH = Gauge("ssd4rec_queue_depth", "Requests that wait", ["queue"], multiprocess_mode="livesum")
SHED = Counter("ssd4rec_shed_total", "Requests refused because a queue was full", ["queue"])
MODEL_INFO = Gauge("ssd4rec_model_info", "1 for the active model", ["version", "fingerprint"], multiprocess_mode="livemax")
MODEL_AGE = Gauge("ssd4rec_model_age_seconds", "Seconds since the active model was saved", multiprocess_mode="livemax")
STATE_BYTES = Gauge("ssd4rec_state_bytes", "Bytes of the cached user states", multiprocess_mode="livesum")
USERS_TO_WARM = Gauge(
    "ssd4rec_users_to_warm",
    "Recently active users whose states are still to be read in the background",
    multiprocess_mode="livesum",
)
PREQUENTIAL_EVENTS = Counter(
    "ssd4rec_prequential_events_total", "Events that were ranked before they were read, or skipped", ["outcome"]
)
LIVE = {  # by the name of `live.Live`
    name: Gauge(metric, text, ["model"], multiprocess_mode="mostrecent")
    for name, metric, text in (
        ("ndcg", "ssd4rec_prequential_ndcg", "NDCG@10 of live events in the last hours"),
        ("hit_rate", "ssd4rec_prequential_hit_rate", "HR@10 of live events in the last hours"),
        ("unknown_share", "ssd4rec_unknown_item_share", "Share of live events whose item is not in the catalog"),
        (
            "popularity_shift",
            "ssd4rec_popularity_shift",
            "Population stability index of the items of live events against training",
        ),
    )
}


def exposition() -> bytes:
    """Return all metrics in the text format of Prometheus."""
    if os.environ.get(MULTIPROCESS):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(REGISTRY)
