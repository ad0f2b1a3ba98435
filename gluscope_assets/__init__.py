"""GLUScope: what each neuron of a gated MLP does, as Dagster assets.

Import the submodule that is needed: this file imports nothing, so that loading Dagster definitions stays fast.
"""

__version__ = "0.1.0"
