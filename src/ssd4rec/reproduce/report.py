"""results.json as pages for people: report.html, which needs no other file, and report.md."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd4rec.files import write_whole
from ssd4rec.reproduce.notes import notes
from ssd4rec.reproduce.plots import plot
from ssd4rec.reproduce.results import RESULTS
from ssd4rec.reproduce.studies import STUDIES
from ssd4rec.reproduce.tables import Table, tables

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;
text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}caption{text-align:left;font-weight:600}
.warn{background:#fff3cd;padding:.4rem .8rem;border-left:4px solid #d39e00}svg{max-width:100%;height:auto}
pre{background:#f6f6f6;padding:.6rem;white-space:pre-wrap}"""


def write_report(results: Mapping[str, Any], out: Path) -> None:
    """Write results.json, report.md and report.html into a folder, each whole or as it was."""
    write_whole(out / RESULTS, json.dumps(results, indent=1))
    write_whole(out / "report.md", as_markdown(results))
    write_whole(out / "report.html", as_html(results))


def as_markdown(results: Mapping[str, Any]) -> str:
    """The tables as text."""
    lines = ["# Reproduction of SSD4Rec", "", f"Summarised by the code of commit {_commit(results)}.", ""]
    for study, name, part in _parts(results):
        lines += [f"## {STUDIES[study].title}: {_plain(name)}", ""]
        if command := part.get("command"):
            lines += ["```", command, "```", ""]
        for note in notes(study, part):
            lines += [f"{'**' if note.warning else ''}{note.text}{'**' if note.warning else ''}", ""]
        for table in tables(study, part):
            lines += [*_markdown_table(table), ""]
    return "\n".join(lines)


def _commit(results: Mapping[str, Any]) -> str:
    return str(results["commit"] or "unknown (installed package)")


def _plain(name: str) -> str:
    """A file's name in Markdown: its letters, no marks."""
    return re.sub(r"([\\`*_<>\[\]#|])", r"\\\1", name)


def as_html(results: Mapping[str, Any]) -> str:
    """One page: style and plots are in it."""
    parts = [f"<p>Summarised by the code of commit {_text(_commit(results))}.</p>"]
    every = [(f"{study}-{name}", f"{STUDIES[study].title}: {name}") for study, name, _ in _parts(results)]
    links = " · ".join(f"<a href='#{_text(place)}'>{_text(title)}</a>" for place, title in every)
    parts.append(f"<nav>{links}</nav>")
    for study, name, part in _parts(results):
        parts.append(f"<h2 id='{_text(f'{study}-{name}')}'>{_text(STUDIES[study].title)}: {_text(name)}</h2>")
        if command := part.get("command"):
            parts.append(f"<pre>{_text(command)}</pre>")
        parts += [f"<p class='{'warn' if note.warning else 'note'}'>{_text(note.text)}</p>" for note in notes(study, part)]
        parts += [_html_table(table) for table in tables(study, part)]
        if part["axis"] is not None and (drawn := plot(part["rows"], part["axis"])) is not None:
            parts.append(drawn)
        settings = next((row["settings"] for row in part["rows"] if row["settings"]), None)
        dumped = _text(json.dumps(settings, indent=1))
        parts.append(f"<details><summary>settings of the first row, first seed</summary><pre>{dumped}</pre></details>")
    title = "Reproduction of SSD4Rec"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{title}</h1>{"".join(parts)}</body></html>\n'


def _parts(results: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [(study, name, part) for study, parts in results["studies"].items() for name, part in parts.items()]


def _markdown_table(table: Table) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [f"{table.title}:", "", line(table.head), "|---|" + "---:|" * (len(table.head) - 1), *map(line, table.rows)]


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><caption>{_text(table.title)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _text(value: str) -> str:
    return html.escape(value)
