"""A client of `ssd4rec serve` in one file; it needs httpx alone. Copy it."""

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import httpx


class ServiceError(RuntimeError):
    """An error of the service; `code` is stable, the message is for people."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.status, self.code = problem["status"], problem["code"]


class Client:
    """Sends events and asks for recommendations.

    Args:
        address: of the service, e.g. "http://127.0.0.1:8080".
        key: an API key; not needed on the service's own machine while there is none.
        tries: how often a request is sent until the service answers. Repeats are safe: events carry an id each.
    """

    def __init__(self, address: str, key: str | None = None, tries: int = 5, **options: Any) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http, self._tries = httpx.Client(base_url=address, headers=headers, **options), tries

    def send(self, events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Store events; when this returns they are on disk. Each has at least user_id and item_id."""
        named = [{"event_id": uuid.uuid4().hex, "timestamp": time.time(), **event} for event in events]
        return self._request("POST", "/v1/events", json={"events": named})

    def recommend(self, user_id: str, k: int = 10, **filters: Any) -> dict[str, Any]:
        """Recommend to a user: `exclude_seen`, `allow`, `deny`, `categories`, `explain` and others are passed on."""
        return self._request("POST", "/v1/recommendations", json={"user_id": user_id, "k": k, **filters})

    def more(self, answer: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the next page of an answer; None after the last one."""
        return self._request("GET", answer["next"]) if answer["next"] else None

    def erase(self, user_id: str) -> None:
        """Erase everything that is stored about a user; needs a key with the scope admin."""
        self._request("DELETE", f"/v1/users/{quote(user_id, safe='')}")

    def _request(self, method: str, path: str, **options: Any) -> Any:
        for attempt in range(self._tries):
            last = attempt == self._tries - 1
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError:
                if last:
                    raise
                time.sleep(0.2 * 2**attempt)
                continue
            if response.status_code not in (429, 503) or last:
                break
            time.sleep(float(response.headers.get("Retry-After", 1)))
        if response.is_error:
            raise ServiceError(response.json())
        return response.json() if response.content else None
