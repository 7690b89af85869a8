"""Light to spikes: one fused function, several backends, the same bits."""
