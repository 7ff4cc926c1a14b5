"""Files written whole or not at all, their names, locks, and the cache on disk."""
