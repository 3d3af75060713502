"""Running an attack: samples, search, findings, cost, sanity."""
