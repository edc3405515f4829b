"""Tensors in, tensors out: no parameters, no users.

`scan` is the definition, event by event. Whatever is fast is held to it, gradients too.
"""
