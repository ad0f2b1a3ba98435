"""Studies: one YAML file each, read and validated by `study`. The shipped ones lie in this folder."""
