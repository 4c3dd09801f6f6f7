"""The console command `av2t`: one module for each subcommand, above the rooms that do the work."""
