"""One module for each resource of the API."""

from ssd4rec.service.routes import erasures, events, explanations, health, items, models, recommendations, session, users

ROUTERS = tuple(
    module.router for module in (health, events, recommendations, users, items, explanations, models, erasures, session)
)
