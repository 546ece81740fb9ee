"""What a chapter runs for one cell of its tables, one file a chapter."""
