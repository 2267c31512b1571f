"""What an exported folder brings along where diffusers has nothing for it. Each file needs only torch and diffusers."""
