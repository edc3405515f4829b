"""The examples of the API's description are possible requests and answers."""

import json
from pathlib import Path

import jsonschema
import pytest

from service_world import settings
from ssd4rec.service.app import create_app

NO_JSON = {"/metrics"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict:
    app = create_app(settings(Path("models"), f"sqlite:///{tmp_path_factory.mktemp('examples') / 'events.db'}"))
    return app.openapi()


def operations(document: dict):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def check(document: dict, schema: dict, example: object) -> None:
    jsonschema.validate(json.loads(json.dumps(example)), {**schema, "components": document["components"]})


def test_every_route_has_examples_that_its_schemas_allow(document: dict) -> None:
    for path, method, operation in operations(document):
        if path in NO_JSON:
            continue
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            assert "example" in content, (method, path)
            check(document, content["schema"], content["example"])
        for status, answer in operation["responses"].items():
            for content in answer.get("content", {}).values():
                assert "example" in content, (method, path, status)
                check(document, content["schema"], content["example"])


def test_the_examples_of_answers_have_every_field(document: dict) -> None:
    for path, method, operation in operations(document):
        content = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
        reference = content.get("schema", {}).get("$ref")
        if reference:
            schema = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
            assert content["example"].keys() == schema["properties"].keys(), (method, path)
