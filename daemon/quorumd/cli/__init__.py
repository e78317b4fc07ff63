"""The `quorumd` command. `main` dispatches; each command's module is imported only when that command runs."""
