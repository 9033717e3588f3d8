"""Rig profiles: one TOML file per camera and lens; srraw_tools.rig reads them."""
