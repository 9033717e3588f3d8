"""One file a command of `srraw`: parses, calls the stage, prints; imports the stage when it runs."""
