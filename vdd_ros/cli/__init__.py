"""The `vdd` command: one file per subcommand, each importing its room only when it runs."""
