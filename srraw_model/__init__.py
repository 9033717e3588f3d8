"""The raw-to-RGB network and the contextual bilateral loss that learn from srraw's data."""

import os

# Beside other work on the same cores, torch threads that spin while they wait make a step ten times as long.
# It must stand in the environment before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
