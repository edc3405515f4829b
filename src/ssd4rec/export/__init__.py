"""Models for other programs: ONNX graphs, item vectors as Parquet, and the Hugging Face hub."""
