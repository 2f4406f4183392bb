"""The published protocol on any pairs: how its table is made, and the supervised networks beside it."""
