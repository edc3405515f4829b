"""Presets: settings as TOML files, by name."""

DEFAULT_PRESET = "regularized"
DENSE_PRESET = "wide"  # in its place where items have many interactions
