"""People's own data, in the formats that they have it in."""
