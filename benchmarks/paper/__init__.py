"""The paper's studies: its protocol, and the files that are made of it."""
