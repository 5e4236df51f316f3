"""Demo application, load, faults, demo runner and benchmarks."""
