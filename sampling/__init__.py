"""Where the method of attention/ meets ComfyUI: the only layer that knows both. docs/architecture.md is its map.

`patch.patch_model` puts one OUTER_SAMPLE wrapper on a clone of the model. When sampling starts, that makes a `Run`,
which puts all other wrappers on the run's own copy of the model options and is dropped when sampling ends. The model is
not changed, and what outlives a run is in three stores: reference cache, region history, attention snapshots.
"""
