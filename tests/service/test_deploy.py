"""Dashboard, scrape configuration, Dockerfile, compose file and unit files say what the program does."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import typer
import yaml
from prometheus_client import REGISTRY
from starlette.testclient import TestClient

from service_world import send
from ssd4rec import cli
from ssd4rec.service import metrics
from ssd4rec.service.settings import PREFIX, ServiceSettings, load_settings

ROOT = Path(__file__).parents[2]
SUFFIXES = ("_bucket", "_count", "_sum", "_created")


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bssd4rec_[a-z_]+", text))


def family(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def test_the_dashboard_shows_metrics_that_exist(client: TestClient) -> None:
    send(client, "u", "i3")
    client.get("/v1/users/u/recommendations")
    exported = {family(line.split("{")[0].split(" ")[0]) for line in client.get("/metrics").text.splitlines() if line[:1] != "#"}
    registered = {family(metric.name) for metric in REGISTRY.collect()} | exported
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {family(name) for text in expressions for name in names_in(text)}
    counters = {name.removesuffix("_total") for name in shown}
    assert shown | counters <= registered | {f"{name}_total" for name in registered} | counters
    for name in shown:
        assert name in registered or name.removesuffix("_total") in registered, name
    own = {family(name) for name in names_in(Path(metrics.__file__).read_text(encoding="utf-8"))}
    assert own == shown  # and all of them
    labels = {label for text in expressions for clause in re.findall(r"by \(([^)]*)\)", text) for label in clause.split(", ")}
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    assert all(f'"{label}"' in source for label in labels - {"le"})


def test_the_metrics_of_the_guide_exist() -> None:
    page = (ROOT / "docs" / "how-to" / "production.md").read_text(encoding="utf-8")
    own = names_in(Path(metrics.__file__).read_text(encoding="utf-8"))
    table = {name for line in page.splitlines() if line.startswith("| `ssd4rec_") for name in names_in(line)}
    assert table == own


def check_command(words: list[str]) -> None:
    """Parse a command line of the program; its options and arguments exist."""
    command: click.Command = typer.main.get_command(cli.app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        name = words.pop(0)
        subcommand = command.get_command(context, name)
        assert subcommand is not None, name
        command = subcommand
    command.make_context(command.name, words, resilient_parsing=False)


def test_the_container_runs_the_program() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    entry, command = (
        json.loads(next(x for x in lines if x.startswith(word)).split(maxsplit=1)[1]) for word in ("ENTRYPOINT", "CMD")
    )
    assert entry == ["ssd4rec"]
    check_command(list(command))
    port = command[command.index("--port") + 1]
    assert f"EXPOSE {port}" in lines
    check = next(line for line in lines if "HEALTHCHECK" in line)
    assert f":{port}/health/ready" in check
    assert command[1] == "/models"
    assert any(line.startswith("RUN") and "/models" in line and "/data" in line for line in lines)
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    extras = re.search(r"'\.\[([a-z,]+)\]'", "\n".join(lines)).group(1).split(",")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)


def test_the_compose_file_runs_the_program() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    service, database = compose["services"]["service"], compose["services"]["database"]
    command = list(service["command"])
    port = command[command.index("--port") + 1]
    assert [published.rsplit(":", 1)[1] for published in service["ports"]] == [port]
    assert all(published.startswith("127.0.0.1:") for published in service["ports"])
    assert any(volume.endswith(f":{command[1]}") for volume in service["volumes"])
    check_command(command)
    for name in service["environment"]:
        assert name.removeprefix(PREFIX).lower() in ServiceSettings.model_fields, name
    address = re.sub(r"\$\{[^}]*\}", "secret", service["environment"]["SSD4REC_STORE"])
    settings = load_settings(environment={"SSD4REC_STORE": address}, flags={"models": Path("models")})
    user, name = database["environment"]["POSTGRES_USER"], database["environment"]["POSTGRES_DB"]
    assert settings.store == f"postgresql+psycopg://{user}:secret@database/{name}"
    assert service["depends_on"]["database"]["condition"] == "service_healthy"
    assert "healthcheck" in database


@pytest.mark.parametrize("page", ["docs/how-to/production.md", "docs/how-to/retrain.md", "docs/tutorials/serve.md"])
def test_the_commands_of_the_guides_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(
        r"^\s*(?:[A-Za-z0-9_]+=\S+ )*(?:ExecStart=)?(?:/opt/ssd4rec/bin/)?ssd4rec ([^|#&\n]*)", text, re.MULTILINE
    )
    assert commands
    for command in commands:
        check_command(shlex.split(re.sub(r"\$\(.*?\)", "version", command)))


def test_the_tests_of_the_guarantees_exist() -> None:
    page = (ROOT / "docs" / "explanation" / "guarantees.md").read_text(encoding="utf-8")
    references = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(references) >= 10
    for file, name in references:
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), name
