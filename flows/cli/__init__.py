"""The command line: the `*app` modules parse, the `*_commands` modules act, `render` and `progress` show."""
