"""Teachers: one family a file, each a denoiser D(x, sigma, obs)."""
