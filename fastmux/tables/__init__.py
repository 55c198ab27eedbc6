"""Tables of rows: read shard by shard, and written as they were read with new columns added."""
