"""Studies: fair comparisons, planned before they run, that end in a verdict (docs/studies.md)."""
