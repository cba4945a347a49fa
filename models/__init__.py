"""MongoDB: the documents (collections, indexes, TTLs) and the stores over them."""
