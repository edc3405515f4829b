"""Set before the first matrix product: cuBLAS gives the same bits twice only with a workspace of its own."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
