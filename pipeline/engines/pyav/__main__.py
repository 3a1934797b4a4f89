"""`python -m pipeline.engines.pyav --trial CODEC`: a short-lived child, as a driver may hang."""

import sys

from pipeline.engines.pyav.write import trial

words = trial(sys.argv[2])
print(words)  # noqa: T201  # the answer to the parent
sys.exit(1 if words else 0)
