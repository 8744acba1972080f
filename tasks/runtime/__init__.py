"""The services of a process that the engine uses: clocks, time limits and memory."""
