"""How fast outputs are generated, beside google-tunix's sampler and ``transformers.generate``."""
