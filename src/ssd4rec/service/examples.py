"""Examples of requests and answers for the description of the API; a test checks them against the schemas."""

from typing import Any

_FINGERPRINT = "9f2c4a7d0b1e6358"
_MODEL = {"version": "2026-02-01", "fingerprint": _FINGERPRINT}
_EVENT = {"event_id": "e1", "user_id": "u7", "item_id": "m318", "type": "view", "timestamp": 1767200000}
_RECOMMENDATIONS: dict[str, Any] = {
    "recommendation_id": "r1f0c9a52e7d84b3a6c5d2e1f",
    "model": _MODEL,
    "variant": "default",
    "source": "model",
    "at": 1767200000,
    "items": [
        {"item_id": "m1042", "title": "That Thing You Do!", "score": 19.86, "rank": 1, "reasons": None},
        {"item_id": "m2797", "title": "Big", "score": 19.04, "rank": 2, "reasons": None},
    ],
    "warnings": [],
    "next": "/v1/recommendations/r1f0c9a52e7d84b3a6c5d2e1f/next?k=2",
}
_PROBLEM = {
    "type": "urn:ssd4rec:problem:invalid_request",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "/k: at most 1,000 items can be requested, found 5,000",
    "code": "invalid_request",
    "errors": [{"pointer": "/k", "detail": "at most 1,000 items can be requested, found 5,000"}],
}
_ITEM = {
    "item_id": "m318",
    "title": "The Shawshank Redemption",
    "categories": ["drama"],
    "hidden": False,
    "available_from": None,
    "available_until": None,
    "in_catalog": True,
    "training_interactions": 317,
}
_USER = {"user_id": "u7", "events": 42, "last_timestamp": 1767200000}
_LIVE = {
    "events": 8120,
    "ranked_events": 8102,
    "hit_rate": 0.241,
    "hit_rate_interval": [0.2318, 0.2505],
    "ndcg": 0.137,
    "unknown_share": 0.012,
    "popular_share": 0.034,
    "popularity_shift": 0.041,
}
_VERSION = {
    "version": "2026-02-01",
    "active": True,
    "loaded": True,
    "fingerprint": _FINGERPRINT,
    "catalog_size": 3650,
    "incremental": True,
    "error": None,
    "live": _LIVE,
    "checks": [{"name": "finite scores", "passed": True, "detail": "after 16 histories"}],
}
_ARM = {
    "arm": "control",
    "answers": 5012,
    "users": 1207,
    "clicked": 431,
    "click_through_interval": [0.0786, 0.0941],
    "followed": 4110,
    "hits": 612,
    "hit_rate_interval": [0.1384, 0.1602],
}
_EXPERIMENT = {
    "name": "february",
    "kind": "ab",
    "control": "2026-01-01",
    "treatment": "2026-02-01",
    "share": 0.5,
    "started": 1767200000,
    "ended": None,
    "arms": [_ARM, {**_ARM, "arm": "treatment", "clicked": 498, "click_through_interval": [0.0915, 0.1079]}],
    "click_through_difference": [0.0022, 0.0246],
    "interleaving": None,
    "prequential": {"ranked_events": 8102, "difference": 0.0061, "interval": [0.0019, 0.0103], "p_value": 0.0045},
}
_EXPLANATION = {
    "model": _MODEL,
    "explanation": {
        "level": "parts",
        "item_id": "m1042",
        "score": 19.86,
        "model": 18.2,
        "co_occurrence": 1.66,
        "repeat_bias": 0.0,
    },
    "warnings": [],
}

_CONSUMED = {
    "total": 90274,
    "items": 3650,
    "coverage": 1.0,
    "gini": 0.61,
    "lorenz": [[0.0, 0.0], [0.5, 0.1], [1.0, 1.0]],
}

# (method, path) -> the body of a request
REQUESTS: dict[tuple[str, str], Any] = {
    ("post", "/v1/events"): {"events": [_EVENT]},
    ("post", "/v1/recommendations"): {"user_id": "u7", "k": 2, "deny": ["m260"], "at": 1767200000},
    ("post", "/v1/recommendations/batch"): {"requests": [{"user_id": "u7", "k": 2}, {"history": ["m318", "m527"], "k": 5000}]},
    ("put", "/v1/items/{item_id}"): {"title": "The Shawshank Redemption", "categories": ["drama"], "hidden": False},
    ("post", "/v1/explanations"): {"user_id": "u7", "item_id": "m1042", "level": "parts"},
    ("post", "/v1/experiments"): {"name": "february", "kind": "ab", "treatment": "2026-02-01", "share": 0.5},
    ("post", "/v1/session"): {"key": "ssd4rec_3f9c0a51b2d4_…"},
}

# (method, path) -> the body of an answer with status 200
ANSWERS: dict[tuple[str, str], Any] = {
    ("get", "/health/live"): {"status": "live"},
    ("get", "/health/ready"): {"status": "ready", "model": "2026-02-01"},
    ("post", "/v1/events"): {"accepted": 1, "duplicates": 0, "rejected": []},
    ("get", "/v1/users/{user_id}/recommendations"): _RECOMMENDATIONS,
    ("post", "/v1/recommendations"): _RECOMMENDATIONS,
    ("get", "/v1/recommendations/{recommendation_id}/next"): {
        **_RECOMMENDATIONS,
        "items": [{"item_id": "m3006", "title": "Insider, The", "score": 18.54, "rank": 3, "reasons": None}],
        "warnings": ["only 1 candidates were left, 2 were requested"],
        "next": None,
    },
    ("post", "/v1/recommendations/batch"): {
        "answers": [{"status": 200, "body": _RECOMMENDATIONS}, {"status": 422, "body": _PROBLEM}]
    },
    ("get", "/v1/users"): {"users": [_USER]},
    ("get", "/v1/users/{user_id}"): _USER,
    ("get", "/v1/users/{user_id}/events"): {
        "events": [{**_EVENT, "title": "The Shawshank Redemption", "value": None, "recommendation_id": None, "properties": None}],
        "next": None,
    },
    ("get", "/v1/items"): {"items": [{"item_id": "m318", "title": "The Shawshank Redemption", "training_interactions": 317}]},
    ("get", "/v1/items/{item_id}"): _ITEM,
    ("put", "/v1/items/{item_id}"): _ITEM,
    ("get", "/v1/items/{item_id}/similar"): {
        "item_id": "m318",
        "model": _MODEL,
        "items": [{"item_id": "m527", "title": "Schindler's List", "score": 0.71, "rank": 1}],
    },
    ("post", "/v1/explanations"): _EXPLANATION,
    ("get", "/v1/models"): {"models": [_VERSION]},
    ("get", "/v1/models/{version}/live"): {"model": _MODEL, "points": [{"at": 1767200100, **_LIVE}]},
    ("post", "/v1/models/{version}/activate"): {**_VERSION, "live": None},
    ("get", "/v1/experiments"): {"experiments": [_EXPERIMENT]},
    ("post", "/v1/experiments"): {**_EXPERIMENT, "arms": [], "click_through_difference": None},
    ("post", "/v1/experiments/{name}/end"): {**_EXPERIMENT, "ended": 1769800000},
    ("get", "/v1/models/{version}/report"): {"version": "2026-02-01", "report": {"test": {"ndcg@10": 0.0967}}},
    ("get", "/v1/catalog"): {
        "model": _MODEL,
        "catalog_size": 3650,
        "users": 500,
        "k": 10,
        "computed_at": 1767200000,
        "consumed": _CONSUMED,
        "recommended": {**_CONSUMED, "total": 5000, "items": 1210, "coverage": 0.33, "gini": 0.88},
        "groups": [{"name": "head", "items": 92, "consumed": 0.33, "recommended": 0.51}],
        "more": [{"item_id": "m318", "title": "The Shawshank Redemption", "training_interactions": 317, "recommended": 181}],
        "less": [],
        "tail": [],
    },
    ("get", "/v1/items/{item_id}/audience"): {
        "item_id": "m318",
        "model": _MODEL,
        "sampled_users": 500,
        "k": 10,
        "reached": 181,
        "users": [{"user_id": "u7", "events": 42, "rank": 1}],
    },
    ("get", "/v1/map"): {
        "model": _MODEL,
        "size": 65535,
        "explained_variance": [0.21, 0.12],
        "x": [120, 64000],
        "y": [30000, 512],
        "training_interactions": [317, 12],
        "middle": 20,
        "head": 150,
    },
    ("get", "/v1/map/items"): {
        "model": _MODEL,
        "items": [{"index": 0, "item_id": "m318", "title": "The Shawshank Redemption"}],
    },
    ("get", "/v1/erasures"): {"erasures": [{"erased_at": 1767200000, "events": 42, "models_trained_before": ["2026-01-01"]}]},
}


def add_examples(document: dict[str, Any]) -> None:
    """Add the examples to an OpenAPI document."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if (body := REQUESTS.get((method, path))) is not None:
                operation["requestBody"]["content"]["application/json"]["example"] = body
            for status, answer in operation["responses"].items():
                for kind, content in answer.get("content", {}).items():
                    if kind == "application/problem+json":
                        content["example"] = _PROBLEM
                    elif status == "200" and (example := ANSWERS.get((method, path))) is not None:
                        content["example"] = example
