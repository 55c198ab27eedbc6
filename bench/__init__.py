"""What is measured: ops against the reference (``pytest bench/``), throughput and training memory of whole models."""
