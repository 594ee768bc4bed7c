"""NumPy references: the definition of every primitive, and the fallback that people run on."""
