"""`doctor`: show versions, devices and kernels."""

from rich.table import Table

from ssd4rec.cli.shared import (
    JsonOption,
    cache,
    out_console,
    print_json,
)


def doctor(*, as_json: JsonOption = False) -> None:
    """Show versions, devices and kernels in use, and why they were chosen."""
    from ssd4rec.diagnostics import diagnose

    findings = {**diagnose(), "cache": str(cache())}
    if as_json:
        print_json(findings)
        return
    table = Table(show_header=False)
    for name, value in findings.items():
        table.add_row(name, str(value))
    out_console.print(table)
