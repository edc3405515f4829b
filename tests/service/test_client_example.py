"""The client of the docs, against a service."""

import importlib.util
from pathlib import Path

import httpx
import pytest

import service_world
from ssd4rec.serving.recommender import Recommender

FILE = Path(__file__).parents[2] / "docs" / "examples" / "client.py"


def load():
    spec = importlib.util.spec_from_file_location("client_example", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_client_of_the_docs(models: Path, store: str, recommender: Recommender) -> None:
    example = load()
    with service_world.running(models, store) as connected:
        client = example.Client("http://127.0.0.1", key=None)
        client._http.close()
        client._http = connected
        assert client.send({"user_id": "a/b", "item_id": item} for item in ("i3", "i4"))["accepted"] == 2
        first = client.recommend("a/b", 3, deny=["i0"])
        service_world.same_answer(first, recommender.recommend(["i3", "i4"], 3, deny=["i0"]))
        assert client.more(first)["items"][0]["rank"] == 4
        client.erase("a/b")
        with pytest.raises(example.ServiceError, match="does not exist") as refused:
            client.erase("a/b")
        assert (refused.value.status, refused.value.code) == (404, "user_not_found")


class _Flaky:
    """Fails before it answers."""

    def __init__(self, inner, failures):
        self.inner, self.failures = inner, failures

    def request(self, *arguments, **options):
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        return self.inner.request(*arguments, **options)


def test_the_client_tries_again(models: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    example = load()
    with service_world.running(models, store) as connected:
        monkeypatch.setattr(example.time, "sleep", lambda _: None)
        client = example.Client("http://127.0.0.1", tries=3)
        client._http.close()
        client._http = _Flaky(connected, [httpx.ConnectError("away"), httpx.ReadError("gone")])
        assert client.send([{"user_id": "u", "item_id": "i1"}])["accepted"] == 1
        client._http = _Flaky(connected, [httpx.ConnectError("away")] * 3)
        with pytest.raises(httpx.ConnectError):
            client.send([{"user_id": "u", "item_id": "i1"}])
