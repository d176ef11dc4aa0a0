"""Search strategies, one per file; `strategy.py` is the contract."""
