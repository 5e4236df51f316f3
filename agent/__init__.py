"""The healing loop: observe, detect, correlate, decide, act, verify, audit."""
