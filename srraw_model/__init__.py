"""The raw-to-RGB network and the contextual bilateral loss that learn from srraw's data."""
