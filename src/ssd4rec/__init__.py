"""SSD4Rec: sequential recommendation with structured state space duality.

>>> import ssd4rec
>>> model = ssd4rec.train(interactions)          # a pandas or polars frame, a file, or a named data set
>>> model.recommend(["id7", "id3"], k=10)
>>> model.save("model")                          # and later: ssd4rec.load("model")

The names below are imported on first use, so that `import ssd4rec` does not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
