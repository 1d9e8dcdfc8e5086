"""The search for hyper-parameters, judged by validation speakers only (docs/tune.md)."""
