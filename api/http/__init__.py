"""The floor of all doors: strict reading, failures and their words, what goes in and out."""
