"""Sequence models, and the next-item model that adds an item embedding table to one.

A model of this package is an `nn.Module` with

width: int                                        D
encode(embedded, cu_seqlens) -> [B, D]            the representation of each sequence, at its last position
encode_prefixes(embedded, cu_seqlens) -> [T, D]   the representation of the prefix that ends at each position, if one pass can
                                                  compute it
"""
