"""The command line: `app` parses, `run_commands` and `store_commands` act, `render` shows."""
