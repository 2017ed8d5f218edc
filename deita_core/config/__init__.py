"""Settings, presets and the sources of their values."""
