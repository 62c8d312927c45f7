"""Benchmarks: the peer in the same run, threads pinned alike, interleaved rounds."""
