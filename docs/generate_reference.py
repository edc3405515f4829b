"""Generate the reference pages from the code: command line, settings and HTTP API. Run by mkdocs (see mkdocs.yml)."""

import ast
import inspect
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import click
import mkdocs_gen_files
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ssd4rec import cli
from ssd4rec.config import Config, presets
from ssd4rec.config.toml import load_config
from ssd4rec.configs import DEFAULT_PRESET


def command_pages(command: click.Command, path: list[str]) -> Iterator[str]:
    """Yield one Markdown section per command, with its usage, arguments and options."""
    name = " ".join(path)
    context = click.Context(command, info_name=name)
    if len(path) > 1 or not isinstance(command, click.Group):
        yield f"## `{name}`\n\n{command.help or ''}\n"
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"```\n{name} {usage}\n```\n"
        rows = [parameter.get_help_record(context) for parameter in command.params]
        rows = [row for row in rows if row]
        if rows:
            yield "| option | meaning |\n|---|---|"
            yield from (f"| `{_cell(option)}` | {_cell(text)} |" for option, text in rows)
            yield ""
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            subcommand = command.get_command(context, child)
            if subcommand is not None:
                yield from command_pages(subcommand, [*path, child])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def settings_page() -> Iterator[str]:
    """Yield one table per group of settings."""
    yield "# Settings\n"
    yield "Every setting can be changed in a TOML file (`--config FILE`) or on the command line (`--set GROUP.KEY=VALUE`)."
    yield f"Presets: {', '.join(f'`{name}`' for name in presets())}.\n"
    default = load_config(DEFAULT_PRESET)
    for group, field in Config.model_fields.items():
        value = getattr(default, group)
        yield f"## `{group}`\n\n{_first_line(type(value))}\n"
        yield f"| setting | type | default | in `{DEFAULT_PRESET}` | meaning |\n|---|---|---|---|---|"
        meanings = _meanings(type(value))
        for key, info in type(value).model_fields.items():
            start = "" if info.default is PydanticUndefined else f"`{_toml(info.default)}`"
            kind = _cell(str(info.annotation).replace("typing.", "").removeprefix("<class '").removesuffix("'>"))
            meaning = _cell(meanings[key])
            yield f"| `{group}.{key}` | {kind} | {start} | `{_toml(getattr(value, key))}` | {meaning} |"
        yield ""
        del field


def _meanings(settings: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each setting; pydantic can read them too, but whenever the package is imported."""
    meanings = {}
    for base in reversed(settings.__mro__[: settings.__mro__.index(BaseModel)]):
        body = ast.parse(inspect.getsource(base)).body[0].body
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                meanings[field.target.id] = text.value.value
    return meanings


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


def http_page() -> Iterator[str]:
    """Yield the routes of the service with their parameters and responses, from its OpenAPI document."""
    from ssd4rec.service.app import create_app  # noqa: PLC0415 - needs the extra `serve`
    from ssd4rec.service.settings import ServiceSettings  # noqa: PLC0415

    document = create_app(ServiceSettings(models="models")).openapi()
    yield f"# HTTP API\n\n{document['info'].get('description', '')}\n"
    yield "A running service has the same description at `/openapi.json`.\n"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"## `{method.upper()} {path}`\n\n{operation.get('summary', '')}\n"
            if text := operation.get("description"):
                yield f"{text}\n"
            for parameter in operation.get("parameters", []):
                yield f"* `{parameter['name']}` ({parameter['in']}): {_cell(parameter.get('description', ''))}"
            yield "\n| status | meaning |\n|---|---|"
            yield from (f"| {status} | {_cell(answer['description'])} |" for status, answer in operation["responses"].items())
            yield ""
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
            for title, content in (("Request", body), ("Answer", answer)):
                if "example" in content:
                    example = json.dumps(content["example"], indent=2, ensure_ascii=False)
                    yield f"{title}:\n\n```json\n{example}\n```\n"


def write(path: str, lines: Iterator[str]) -> None:
    """Write one generated page."""
    with mkdocs_gen_files.open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def cli_page() -> Iterator[str]:
    """Yield the page of the command line."""
    yield "# Command line\n"
    yield "Results go to standard output, progress and warnings to standard error."
    yield "Exit codes: 0 success, 1 internal error, 2 invalid input, 130 interrupted.\n"
    yield from command_pages(typer.main.get_command(cli.app), ["ssd4rec"])


write("reference/cli.md", cli_page())
write("reference/settings.md", settings_page())
write("reference/http-api.md", http_page())
