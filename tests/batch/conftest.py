"""The batch belongs to the embedded host, which is not on the path of tests."""

import embedded_host  # noqa: F401  makes `standalone` importable
