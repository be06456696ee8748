"""Encoders: ScatSimCLR's adapter networks on a scattering front end."""
