"""The paper's Figures 3 to 5 as SVG."""

import io
from collections.abc import Sequence

from ssd4rec.paper.rows import Row

DRAWN = ("ndcg@10", "mrr@10", "hr@10")
WHOLE = 2.0  # a point for whole histories stands at so many times the longest length


def plot(rows: Sequence[Row], axis: str) -> str | None:
    """NDCG@10, MRR@10 and HR@10 along a setting, bars of one standard deviation; None: nothing is finished."""
    from matplotlib import rc_context  # noqa: PLC0415 - a second that only a plot is worth
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    done = [row for row in rows if row.metrics]
    if not done:
        return None
    longest = max((row.x for row in done if row.x is not None), default=1.0)
    places = [longest * WHOLE if row.x is None else row.x for row in done]
    figure = Figure(figsize=(10, 3), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(DRAWN)), DRAWN, strict=True):
        spreads = [row.metrics[name] for row in done if name in row.metrics]
        if len(spreads) < len(done):
            continue  # other cut-offs were asked for
        panel.errorbar(places, [s.mean for s in spreads], yerr=[s.sd or 0.0 for s in spreads], marker="o", capsize=3)
        panel.set_title(name.upper())
        panel.set_xlabel(axis)
        if longest > 1:
            panel.set_xscale("log")
            panel.set_xticks(places, ["whole" if row.x is None else f"{row.x:g}" for row in done])
            panel.minorticks_off()
    text = io.StringIO()
    FigureCanvasSVG(figure)
    with rc_context({"svg.hashsalt": "ssd4rec"}):  # the same figures are the same file
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
