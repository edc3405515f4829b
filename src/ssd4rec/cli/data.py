"""`data list`, `data fetch` and `data describe`: data sets before training."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ssd4rec.cli import _render
from ssd4rec.cli.shared import (
    ConfigOption,
    DataArgument,
    ItemOption,
    JsonOption,
    SetOption,
    TimeOption,
    UserOption,
    cache,
    check_columns,
    columns_as_settings,
    err_console,
    open_prepared,
    out_console,
    print_json,
    reporter,
    say,
)


def list_data(*, as_json: JsonOption = False) -> None:
    """Show the data sets that ssd4rec knows by name, and which of them are on this machine."""
    from dataclasses import asdict

    from ssd4rec.datasets.registry import BUILT_IN, KNOWN, folder_of, where
    from ssd4rec.datasets.store import is_stored, is_whole

    folders = {name: folder_of(known, cache()) for name, known in KNOWN.items()}
    fetched = {name: is_whole(folder) for name, folder in folders.items()}
    if as_json:
        print_json({name: {**asdict(known), "fetched": fetched[name]} for name, known in KNOWN.items()})
        return
    damaged = [name for name in KNOWN if is_stored(folders[name]) and not fetched[name]]
    table = Table(title="Named data sets, after the 5-core")
    for column in ("name", "users", "items", "interactions", "here"):
        table.add_column(column, justify="left" if column in {"name", "here"} else "right", no_wrap=True)
    for name, known in KNOWN.items():
        here = "yes" if fetched[name] else "with the extra demo" if name == BUILT_IN else "damaged" if name in damaged else "no"
        table.add_row(name, f"{known.kept.users:,}", f"{known.kept.items:,}", f"{known.kept.interactions:,}", here)
    out_console.print(table)
    for name, known in KNOWN.items():
        line = Text.assemble((name, "bold"), f": {known.title}. From {where(known)}. Terms: {known.license}.")
        out_console.print(line, soft_wrap=True)
    for name in damaged:
        out_console.print(f"{name}, as it lies in {folders[name]}, was damaged; next: ssd4rec data fetch {name}", soft_wrap=True)


def fetch_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A named data set; `ssd4rec data list` shows them.")],
    *,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE", help="A file that you have, or another URL of it, instead of the publisher's download."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a named data set: download it from its publisher or take a file that you have, and check that it is the right one."""
    from dataclasses import asdict

    from ssd4rec.datasets.fetch import fetch
    from ssd4rec.datasets.registry import find_known

    known = find_known(name)
    say(f"terms of {known.name}: {known.license}")
    try:
        with _render.download_bar(err_console) as bar:
            fetched = fetch(known, cache(), source, lambda file: reporter(bar, file))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on with what came") from None
    if as_json:
        print_json(asdict(fetched))
        return
    for note in fetched.notes:
        say(f"warning: {note}")
    if fetched.was_there:
        say(f"already on this machine; remove {fetched.folder} to fetch it again, or give a file with --from")
    raw, kept = fetched.raw, fetched.kept
    out_console.print(
        f"{known.name}: {raw.users:,} users, {raw.items:,} items, {raw.interactions:,} interactions; after the 5-core "
        f"{kept.users:,}, {kept.items:,}, {kept.interactions:,}, as it should be; {fetched.titles:,} titles",
        soft_wrap=True,
    )
    out_console.print(f"from {fetched.source}; checked: {fetched.checked}; in {fetched.folder}", soft_wrap=True)
    out_console.print(f"next: ssd4rec train {known.name}")


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
    """Read DATA and show what is in it, what the k-core drops, and what a pass of training costs."""
    from ssd4rec.config import load_config

    overrides = [*(settings or []), *columns_as_settings(user, item, time)]
    chosen = load_config(config, overrides)
    check_columns(data, overrides)
    prepared = open_prepared(data, chosen, None)

    from ssd4rec import pipeline

    description = {**prepared.description, "pass": pipeline.describe_pass(prepared, chosen)}
    if as_json:
        print_json(description)
        return
    _render.show_data(out_console, description)
    cost = description["pass"]
    out_console.print(
        f"a pass has {cost['targets']:,} targets: {cost['all_positions_tokens']:,} tokens with the objective all-positions, "
        f"{cost['per_prefix_tokens']:,} with per-prefix ({cost['per_prefix_tokens'] / max(cost['all_positions_tokens'], 1):.0f}x)"
    )
    out_console.print(f"batches of {chosen.training.token_budget:,} tokens are {cost['fill']:.1%} full")
