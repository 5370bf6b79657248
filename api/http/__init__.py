"""What all doors stand on: strict reading, failures and their wording, what goes in and out."""
