"""The format of the lake: keys, schemas, calendar, adjustment and buckets, and how its bytes are decoded."""
