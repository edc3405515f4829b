"""results.json as pages for people: report.html, which needs no other file, and report.md."""

import html
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd4rec._io import as_json, escaped, write_atomically
from ssd4rec.paper.notes import notes
from ssd4rec.paper.plots import plot
from ssd4rec.paper.results import RESULTS
from ssd4rec.paper.rows import Results, Section
from ssd4rec.paper.studies import STUDIES
from ssd4rec.paper.tables import Table, tables

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:90rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;
text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}caption{text-align:left;font-weight:600}
.warn{background:#fff3cd;padding:.4rem .8rem;border-left:4px solid #d39e00}img{max-width:100%;height:auto}
pre{background:#f6f6f6;padding:.6rem;white-space:pre-wrap}"""


def write_report(results: Results, out: Path) -> None:
    """Write results.json, report.md and report.html into a folder, each whole or as it was."""
    texts = {RESULTS: as_json(results.as_dict(), indent=1), "report.md": as_markdown(results), "report.html": as_html(results)}
    for name, text in texts.items():  # all are made before the first is written
        write_atomically(out / name, escaped(text))


def as_markdown(results: Results) -> str:
    """The tables as text."""
    lines = ["# Reproduction of SSD4Rec", "", f"Summarised by the code of commit {_commit(results)}.", ""]
    for study, name, section in _sections(results):
        lines += [f"## {STUDIES[study].title}: {_plain(name)}", ""]
        if section.command:
            lines += ["```", section.command, "```", ""]
        for note in notes(study, section):
            lines += [f"{'**' if note.warning else ''}{note.text}{'**' if note.warning else ''}", ""]
        for table in tables(study, section):
            lines += [*_markdown_table(table), ""]
    return "\n".join(lines)


def _commit(results: Results) -> str:
    return results.commit or "unknown (installed package)"


def _plain(name: str) -> str:
    """A file's name in Markdown: its letters, no marks."""
    return re.sub(r"([\\`*_<>\[\]#|])", r"\\\1", name)


def as_html(results: Results) -> str:
    """One page: style and plots are in it."""
    parts = [f"<p>Summarised by the code of commit {_text(_commit(results))}.</p>"]
    every = [f"{STUDIES[study].title}: {name}" for study, name, _ in _sections(results)]
    links = " · ".join(f"<a href='#section-{number}'>{_text(title)}</a>" for number, title in enumerate(every, start=1))
    parts.append(f"<nav>{links}</nav>")
    for number, (study, name, section) in enumerate(_sections(results), start=1):
        parts.append(f"<h2 id='section-{number}'>{_text(every[number - 1])}</h2>")
        if section.command:
            parts.append(f"<pre>{_text(section.command)}</pre>")
        parts += [f"<p class='{'warn' if note.warning else 'note'}'>{_text(note.text)}</p>" for note in notes(study, section)]
        parts += [_html_table(table) for table in tables(study, section)]
        if section.axis is not None and (drawn := plot(section.rows, section.axis)) is not None:
            said = f"NDCG, MRR and HR at 10 by {section.axis} on {name}, the figures of the first table"
            parts.append(f"<img alt='{_text(said)}' src='data:image/svg+xml;base64,{b64encode(drawn.encode()).decode()}'>")
        parts += [
            f"<details><summary>all settings of {_text(label)}, first seed</summary><pre>{_text(said)}</pre></details>"
            for label, said in _settings(section).items()
        ]
    title = "Reproduction of SSD4Rec"
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{title}</h1>{"".join(parts)}</body></html>\n'


def _settings(section: Section) -> dict[str, str]:
    """By row: those of the first one whole, of the others what is not as there."""
    rows = {row.label: row.settings for row in section.rows if row.settings}
    first = next(iter(rows), "")
    said = {label: f"as of {first}, but for\n{_unlike(rows[first], settings)}" for label, settings in rows.items()}
    return said | ({first: json.dumps(rows[first], indent=1)} if rows else {})


def _unlike(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    ours, theirs = (
        {f"{group}.{key}": value for group, keys in each.items() for key, value in keys.items()} for each in (other, first)
    )
    without = sorted(theirs.keys() - ours.keys())
    different = [f"{name} = {json.dumps(value)}" for name, value in ours.items() if name not in theirs or theirs[name] != value]
    return "\n".join([*different, *(f"without {name}" for name in without)])


def _sections(results: Results) -> list[tuple[str, str, Section]]:
    return [(study, name, section) for study, sections in results.studies.items() for name, section in sections.items()]


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
