"""What is measured: intervals, verdicts, probes."""
