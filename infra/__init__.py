"""The production deployment of Repli: an image, a compose file, and the same parts as processes of one machine."""
