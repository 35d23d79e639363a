"""Studies: one file per question, each with `Options`, `run(options, progress)` and `table(record)`."""
