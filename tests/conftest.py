"""Settings that all suites share.

Property tests run the same examples each time, so that a red run is red again; the profile
`thorough` draws new ones: `HYPOTHESIS_PROFILE=thorough pytest tests/property`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("fast", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile(
    "thorough",
    max_examples=1000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
