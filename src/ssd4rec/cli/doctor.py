"""`doctor`: versions, devices and kernels in use."""

from rich.table import Table

from ssd4rec.cli.shared import (
    JsonOption,
    cache,
    out_console,
    print_json,
)


def doctor(*, as_json: JsonOption = False) -> None:
    """Show which versions, devices and kernels are in use, and why."""
    from ssd4rec.diagnostics import diagnose

    findings = {**diagnose(), "cache": str(cache())}
    if as_json:
        print_json(findings)
        return
    table = Table(show_header=False)
    for name, value in findings.items():
        table.add_row(name, str(value))
    out_console.print(table)
