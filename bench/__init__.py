"""What is measured: ops beside the reference (`pytest bench/ops`), throughput and memory of whole models."""
