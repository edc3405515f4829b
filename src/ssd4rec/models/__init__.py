"""Sequence models, each a `models.encoders.Backbone`, and the next-item model that adds an item embedding table to one."""
