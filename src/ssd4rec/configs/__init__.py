"""Presets: settings as TOML files, by name."""

DEFAULT_PRESET = "regularized"
