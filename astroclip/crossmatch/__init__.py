"""Who is who: the rows of one survey among those of another, by identity and by position."""
