"""The operations as Triton kernels. Importing this module imports Triton; use `ops.triton.load_kernels`."""

from ssd4rec.ops.triton.convolution import convolve, convolve_bidirectional
from ssd4rec.ops.triton.cross_entropy import linear_cross_entropy
from ssd4rec.ops.triton.gated_norm import gated_norm
from ssd4rec.ops.triton.prefix_readout import backward_prefix_readout
from ssd4rec.ops.triton.ssd import scan

__all__ = ["backward_prefix_readout", "convolve", "convolve_bidirectional", "gated_norm", "linear_cross_entropy", "scan"]
