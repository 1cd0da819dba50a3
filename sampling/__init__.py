"""The one place that knows ComfyUI: where the method of attention/ is hung on a sampling run.

`patch.patched` puts a single OUTER_SAMPLE wrapper on a cloned model. When sampling starts it makes a `run.Run`,
which hangs all other wrappers on that run's own copy of the model options and is dropped when sampling ends:
nothing exclusive is ever stored on the model, and no state outlives a run but the recorded regions.
"""
