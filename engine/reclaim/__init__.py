"""What passes share: resident pages, calls, what each rule frees, flushes. Imports random and what is below it."""
