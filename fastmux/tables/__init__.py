"""Tables of rows: read as they are, shard by shard, and written as they were read, with columns behind their own."""
