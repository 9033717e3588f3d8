"""The blind A/B study: two results of one scene side by side, and who prefers which."""
