"""Benchmarks: `make bench`. Each file measures one thing and returns rows; ratios come from the same run."""
