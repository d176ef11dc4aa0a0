"""Speed and memory, always as a ratio measured in one run; never an assertion on time."""
