"""`data list` and `data describe`: data sets before training."""

from rich.markup import escape
from rich.table import Table

from ssd4rec import screen
from ssd4rec.cli.shared import (
    ConfigOption,
    DataArgument,
    ItemOption,
    JsonOption,
    SetOption,
    TimeOption,
    UserOption,
    columns_as_settings,
    open_data,
    out_console,
    print_json,
)


def list_data(*, as_json: JsonOption = False) -> None:
    """Show the data sets that ssd4rec knows by name."""
    from dataclasses import asdict

    from ssd4rec.data.known import KNOWN

    if as_json:
        print_json({name: asdict(known) for name, known in KNOWN.items()})
        return
    table = Table(title="Named data sets, after the 5-core")
    for column in ("name", "users", "items", "interactions"):
        table.add_column(column, justify="left" if column == "name" else "right", no_wrap=True)
    for name, known in KNOWN.items():
        table.add_row(name, f"{known.kept.users:,}", f"{known.kept.items:,}", f"{known.kept.interactions:,}")
    out_console.print(table)
    for name, known in KNOWN.items():
        out_console.print(
            f"[bold]{name}[/]: {escape(known.title)}. From {escape(known.download)}. Terms: {escape(known.licence)}."
        )


def describe_data(
    data: DataArgument,
    *,
    config: ConfigOption = "quick",
    settings: SetOption = None,
    user: UserOption = None,
    item: ItemOption = None,
    time: TimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read DATA and say what is in it, what the k-core drops, and what a pass of training costs."""
    from ssd4rec.config import load_config

    chosen = load_config(config, [*(settings or []), *columns_as_settings(user, item, time)])
    interactions, titles = open_data(data, chosen, None)

    from ssd4rec import experiment

    prepared = experiment.prepare(interactions, titles, chosen)
    description = {**prepared.description, "pass": experiment.describe_pass(prepared, chosen)}
    if as_json:
        print_json(description)
        return
    screen.show_data(out_console, description)
    cost = description["pass"]
    out_console.print(
        f"a pass has {cost['targets']:,} targets: {cost['one_pass_tokens']:,} tokens with objective one-pass, "
        f"{cost['prefix_tokens']:,} with prefix ({cost['prefix_tokens'] / max(cost['one_pass_tokens'], 1):.0f}x)"
    )
    out_console.print(f"batches of {chosen.training.token_budget:,} tokens are {cost['fill']:.1%} full")
