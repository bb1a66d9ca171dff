"""What launch, plan, advise and replay print, each in a module. Imports what is below the commands."""
