"""One module a stage: each wires options to the core and reports what came out. Nothing is computed here."""
