"""CompVis' latent diffusion in plain torch, after the papers and the published checkpoints' names: what conversions are
compared with."""
