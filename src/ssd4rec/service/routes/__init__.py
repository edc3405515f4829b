"""One module for each resource of the API: its routes, and the bodies of requests and answers that nothing else makes."""

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
