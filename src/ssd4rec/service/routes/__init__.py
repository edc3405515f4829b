"""One module for each resource of the API."""

from ssd4rec.service.routes import (
    catalog,
    erasures,
    events,
    experiments,
    explanations,
    health,
    items,
    live,
    models,
    recommendations,
    session,
    users,
)

ROUTERS = tuple(
    module.router
    for module in (
        health,
        events,
        recommendations,
        users,
        items,
        catalog,
        explanations,
        models,
        experiments,
        live,
        erasures,
        session,
    )
)
