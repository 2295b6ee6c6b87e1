"""The benchmarks: each measures one part on real servers, with the limit that it is up against beside it."""
