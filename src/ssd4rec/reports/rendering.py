"""Render reports from templates: tables of text cells, in one style for all reports."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple, Self

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

PAGE = "ssd4rec.reports"
TEXT_COLUMNS = ("", "source", "settings from", "compared with", "scores", "objective")  # aligned left


class Table(NamedTuple):
    """A table of text cells. A column `group|name` stands under a heading that it shares with its neighbors."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, title: str, rows: Iterable[Mapping[str, str]]) -> Self:
        """Make a table of rows that have the same columns."""
        rows = list(rows)
        return cls(title, tuple(rows[0]) if rows else (), tuple(tuple(row.values()) for row in rows))

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings over several columns, and how many."""
        return [(name, len(list(of))) for name, of in groupby(column.rpartition("|")[0] for column in self.columns)]

    @property
    def names(self) -> list[str]:
        """Column names without their group."""
        return [column.rpartition("|")[2] for column in self.columns]

    @property
    def text(self) -> list[bool]:
        """Whether a column is aligned left."""
        return [name in TEXT_COLUMNS for name in self.names]


def render_template(name: str, package: str = PAGE, **values: object) -> str:
    """Render a template of a package, which may extend and import those of this one.

    The name is without `.jinja`. In an `.html` file all values are escaped.
    """
    loader = ChoiceLoader([PackageLoader(each) for each in dict.fromkeys((package, PAGE))])
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=name.endswith(".html")
    )
    environment.filters["literal"] = lambda text: "".join(f"\\{each}" if each in "\\`*_<>[]#|" else each for each in text)
    return environment.get_template(f"{name}.jinja").render(**values)
