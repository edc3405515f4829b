"""One module for each resource of the API: the bodies of its requests and answers, and its routes."""

from ssd4rec.service.routes import (
    catalog,
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

ROUTERS = (
    health.router,
    events.router,
    recommendations.router,
    users.router,
    items.router,
    catalog.router,
    explanations.router,
    models.router,
    experiments.router,
    live.router,
    users.erasures,
    session.router,
)
