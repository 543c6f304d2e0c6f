"""What a person at a terminal sees and sends: text as text, progress, and signals that ask the program to end."""
