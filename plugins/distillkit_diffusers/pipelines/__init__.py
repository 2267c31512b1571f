"""What an exported folder brings along where diffusers has no class for it. The files need only torch and diffusers."""
