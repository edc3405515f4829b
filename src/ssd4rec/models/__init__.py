"""What reads a history.

A backbone is an `nn.Module` with:

width: int                                    D
encode(embedded, cu_seqlens) -> [B, D]        what it knows at the end of each history
encode_prefixes(embedded, cu_seqlens) -> [T, D]   the same for the prefix that ends at each position, where it can in one pass
"""
