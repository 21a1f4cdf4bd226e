"""Triton decides at import whether it interprets: these tests run where TRITON_INTERPRET=1, which
tests/test_triton.py sets."""

import os

if not os.environ.get("TRITON_INTERPRET"):
    collect_ignore_glob = ["test_*.py"]
