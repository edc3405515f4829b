"""The HTTP service: events in, recommendations out, nothing acknowledged lost."""
