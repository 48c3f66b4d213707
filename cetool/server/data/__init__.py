"""The server's database: its tables, and functions that read and change them in a transaction."""
