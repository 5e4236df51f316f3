"""The judgement measured: detectors, localisers and canary verdicts beside what is known, from seeded data."""
