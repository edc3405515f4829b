"""`doctor`: show versions, devices and kernels."""

from rich.table import Table

from ssd4rec.cli import console, inputs, options


def doctor(*, as_json: options.Json = False) -> None:
    """Show versions, devices and kernels in use, and why they were chosen."""
    from ssd4rec.diagnostics import diagnose

    findings = {**diagnose(), "cache": str(inputs.cache())}
    if as_json:
        console.print_json(findings)
        return
    table = Table(show_header=False)
    for name, value in findings.items():
        table.add_row(name, str(value))
    console.out.print(table)
